"""Draw the curves of several runs in one picture, or write them as a table.

    python tools/plot_runs.py ckpts/a ckpts/b --out curves.png
    python tools/plot_runs.py "big batch=ckpts/a" ckpts/b --out curves.svg --x hours --smooth 20
    python tools/plot_runs.py ckpts/* --only loss "*t2v/R@1" --csv curves.csv

Each quantity has a panel: losses by name, learning rates, gradient norm, logit scale, queue, speed, waiting
and memory (from steps.jsonl), and evaluations (from metrics.jsonl). Runs that only evaluated are horizontal
dotted lines.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.atomic_files import atomic_open, check_target
from common.errors import UserError, run_program
from tools.curves.run_curves import AXES, RunCurves, read_curves

FORMATS = ("png", "svg", "pdf")
METRICS = ("R@1", "R@5", "R@10", "MedianR", "MeanR")  # drawn unless --only names others
FIRST_PANELS = ("loss", "VTM", "FTM", "FAM", "MLM", "grad_norm", "logit_scale")
LAST_PANELS = (
    "queue_age",
    "queue_filled",
    "skipped_steps",
    "unreadable_clips",
    "clips_per_second",
    "clips_per_second_per_rank",
    "waiting",
    "memory_bytes",
)
COUNTS = ("skipped_steps", "unreadable_clips")
COLUMNS = ("run", "folder", "name", "step", "epoch", "hours", "value")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("plot_runs.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.out is None and args.csv is None:
        raise UserError("nothing to write: give --out PICTURE or --csv FILE")
    if args.out is not None and args.out.suffix[1:].lower() not in FORMATS:
        raise UserError(f"--out {args.out}: must end in one of .{', .'.join(FORMATS)}")
    for flag in ("out", "csv"):
        if getattr(args, flag) is not None:
            check_target(getattr(args, flag), f"--{flag}")
    runs = _read(args.runs)
    if args.csv is not None:
        _write_table(runs, args.csv)
    if args.out is not None:
        _write_picture(runs, args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="plot_runs.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FOLDER", help="output folders of runs")
    parser.add_argument("--out", type=Path, help=f"the picture: {', '.join(FORMATS)}")
    parser.add_argument("--csv", type=Path, help="table of the same numbers, unsmoothed, one value per line")
    parser.add_argument("--x", choices=AXES, default="step", help="horizontal axis [step]")
    parser.add_argument(
        "--smooth",
        type=_count,
        default=1,
        metavar="N",
        help="draw means of N logged steps, and the raw values in a pale colour [1]",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="panels to draw, e.g. loss '*t2v/R@1' ('*': anything)"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 1")
    return int(text)


def _read(items: Sequence[str]) -> list[RunCurves]:
    """The runs that are not empty, with distinct labels. Empty ones are named on stderr."""
    named = [_name_and_folder(item) for item in items]
    labels = _labels(named)
    runs = [read_curves(folder, label=label) for (_, folder), label in zip(named, labels, strict=True)]
    for run in runs:
        if run.is_empty:
            _say(f"left out {run.folder}: it has no step and no evaluation yet")
    runs = [run for run in runs if not run.is_empty]
    if not runs:
        raise UserError("nothing to draw: no folder has a steps.jsonl or metrics.jsonl")
    return runs


def _name_and_folder(item: str) -> tuple[str | None, Path]:
    """Name and folder of `NAME=FOLDER`; an existing folder may have = in its path."""
    name, equals, folder = item.partition("=")
    if equals and not Path(item).is_dir():
        return name, Path(folder)
    return None, Path(item)


def _labels(named: Sequence[tuple[str | None, Path]]) -> list[str]:
    """The given names; for other folders, as many last parts of the path as make them distinct."""
    paths = [folder.resolve().parts for _, folder in named]
    labels = []
    for (name, _), parts in zip(named, paths, strict=True):
        depth = 1
        while depth < len(parts) and any(
            other != parts and other[-depth:] == parts[-depth:] for other in paths
        ):
            depth += 1
        labels.append(name or "/".join(parts[-depth:]))
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: given twice; give each folder once, and different names")
    return labels


def _write_picture(runs: list[RunCurves], args: argparse.Namespace) -> None:
    # Imported only to draw: matplotlib takes a second.
    from tools.curves.curve_figure import draw_runs, drawable_labels, save_figure

    names = _panels(runs, args.only)
    for run in runs:
        points = [point for name in names for point in run.curves.get(name, ())]
        if not any(getattr(point, args.x) is not None for point in points) and not run.evaluated:
            _say(f"{run.label}: nothing to draw over --x {args.x}{_why(run, args.x)}")
    labels, missing = drawable_labels([run.label for run in runs], vector=args.out.suffix.lower() == ".svg")
    if missing:
        _say(
            f"no installed font has {missing}; install one, such as Noto Sans CJK, or write an .svg."
            " In this picture:"
        )
        for label, run in zip(labels, runs, strict=True):
            if label != run.label:
                _say(f"  {label} is {run.label}")
    save_figure(draw_runs(runs, names, labels=labels, axis=args.x, smooth=args.smooth), args.out)


def _why(run: RunCurves, axis: str) -> str:
    if axis == "epoch":
        return ": its first epoch is not over, so the length of an epoch is unknown"
    return ": without steps.jsonl the time of its evaluations is unknown; use --x epoch" if run.curves else ""


def _panels(runs: Sequence[RunCurves], only: Sequence[str] | None) -> list[str]:
    """Names of the panels in order: losses, gradient norm, rates, queue, speed, evaluations."""
    names = {name: None for run in runs for name in (*run.curves, *run.evaluated)}
    if only:
        for pattern in only:
            if not any(_matches(name, pattern) for name in names):
                raise UserError(f"--only {pattern}: no such curve; there are {', '.join(sorted(names))}")
        return sorted((n for n in names if any(_matches(n, p) for p in only)), key=_position)
    return sorted((name for name in names if _is_drawn_by_default(name, runs)), key=_position)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(": ")[2], pattern)


def _is_drawn_by_default(name: str, runs: Sequence[RunCurves]) -> bool:
    """False for rare metrics, for a learning rate equal to its group's, and for counts that stay 0."""
    if ": " in name:
        return name.rpartition(": ")[2] in [f"{d}/{metric}" for d in ("t2v", "v2t") for metric in METRICS]
    if name in COUNTS and not any(point.value for run in runs for point in run.curves.get(name, ())):
        return False
    twin = name.removesuffix(" no decay")
    return twin == name or any(run.curves.get(name) != run.curves.get(twin) for run in runs)


def _position(name: str) -> tuple[int, str, int, str]:
    """Sort key of a panel."""
    measured_on, colon, figure = name.rpartition(": ")
    if colon:
        direction, _, metric = figure.partition("/")
        rank = METRICS.index(metric) if metric in METRICS else len(METRICS)
        return 4, f"{measured_on} {direction}", rank, figure
    if name in FIRST_PANELS:
        return 0, "", FIRST_PANELS.index(name), ""
    if name in LAST_PANELS:
        return 3, "", LAST_PANELS.index(name), ""
    return (2, "", 0, name) if name.startswith("lr/") else (1, "", 0, name)


def _write_table(runs: Sequence[RunCurves], path: Path) -> None:
    with atomic_open(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in runs:
            writer.writerows(_rows(run))


def _rows(run: RunCurves) -> Iterator[list[object]]:
    """Rows of COLUMNS; a cell is empty if a position is unknown or the value was not finite."""
    head = [run.label, str(run.folder)]
    for name, points in run.curves.items():
        for point in points:
            value = point.value if math.isfinite(point.value) else None
            yield [*head, name, point.step, point.epoch, point.hours, value]
    for name, figure in run.evaluated.items():
        yield [*head, name, None, None, None, figure]


def _say(message: str) -> None:
    print(f"plot_runs.py: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
