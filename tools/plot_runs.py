"""Draw the curves of several runs over each other, or write them as a table.

    python tools/plot_runs.py ckpts/a ckpts/b --out curves.png
    python tools/plot_runs.py "big batch=ckpts/a" ckpts/b --out curves.svg --x hours --smooth 20
    python tools/plot_runs.py ckpts/* --only loss "*t2v/R@1" --csv curves.csv

Losses by name, rates, gradient norm, logit scale, queue, speed, waiting, memory (steps.jsonl) and evaluations
(metrics.jsonl), a panel each. Folders that only evaluated appear as dotted lines across.
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

from common.atomic_files import atomic_open
from tools.curves.run_curves import AXES, RunCurves, read_curves

FORMATS = ("png", "svg", "pdf")
FIGURES = ("R@1", "R@5", "R@10", "MedianR", "MeanR")  # of evaluations, unless --only names others
ORDER = ("loss", "VTM", "FTM", "FAM", "MLM", "grad_norm", "logit_scale")
TAIL = (
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
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.out is None and args.csv is None:
            raise ValueError("nothing to write: give --out PICTURE or --csv FILE")
        if args.out is not None and args.out.suffix[1:].lower() not in FORMATS:
            raise ValueError(f"--out {args.out}: must end in one of .{', .'.join(FORMATS)}")
        runs = _read(args.runs)
        if args.csv is not None:
            _write_table(runs, args.csv)
        if args.out is not None:
            _write_picture(runs, args)
    except (ValueError, OSError) as error:
        print(f"plot_runs.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FOLDER", help="output folders of runs")
    parser.add_argument("--out", type=Path, help=f"the picture: {', '.join(FORMATS)}")
    parser.add_argument("--csv", type=Path, help="the same numbers, unsmoothed, one value a line")
    parser.add_argument("--x", choices=AXES, default="step", help="what runs to the right [step]")
    parser.add_argument(
        "--smooth", type=_count, default=1, metavar="N", help="mean over N reported steps, raw behind [1]"
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
    """All runs that hold anything, each with a label of its own; says which are left out."""
    named = [_name_and_folder(item) for item in items]
    labels = _labels(named)
    runs = [read_curves(folder, label=label) for (_, folder), label in zip(named, labels, strict=True)]
    for run in runs:
        if run.is_empty:
            _say(f"left out {run.folder}: no step and no evaluation in it yet")
    runs = [run for run in runs if not run.is_empty]
    if not runs:
        raise ValueError("nothing to draw: no folder holds steps.jsonl or metrics.jsonl")
    return runs


def _name_and_folder(item: str) -> tuple[str | None, Path]:
    """`NAME=FOLDER`, or a folder, even one with = in its path."""
    name, equals, folder = item.partition("=")
    if equals and not Path(item).is_dir():
        return name, Path(folder)
    return None, Path(item)


def _labels(named: Sequence[tuple[str | None, Path]]) -> list[str]:
    """Given names, else as many last parts of the path as it takes to tell the folders apart."""
    paths = [folder.resolve().parts for _, folder in named]
    labels = []
    for (name, _), parts in zip(named, paths, strict=True):
        depth = 1
        while depth < len(parts) and any(
            other != parts and other[-depth:] == parts[-depth:] for other in paths
        ):
            depth += 1
        labels.append(name or "/".join(parts[-depth:]))
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]}: given twice; give each folder once, or names of their own")
    return labels


def _write_picture(runs: list[RunCurves], args: argparse.Namespace) -> None:
    # Imported when something is to be drawn: matplotlib takes a second.
    from tools.curves.curve_figure import draw_runs, drawable_labels, save_figure

    names = _panels(runs, args.only)
    for run in runs:
        points = [point for name in names for point in run.curves.get(name, ())]
        if not any(getattr(point, args.x) is not None for point in points) and not run.evaluated:
            _say(f"{run.label}: nothing to draw over --x {args.x}{_why(run, args.x)}")
    labels, missing = drawable_labels([run.label for run in runs], vector=args.out.suffix.lower() == ".svg")
    if missing:
        _say(
            f"no font here draws {missing}; install one, such as Noto Sans CJK, or write an .svg. Until then:"
        )
        for label, run in zip(labels, runs, strict=True):
            if label != run.label:
                _say(f"  {label} is {run.label}")
    save_figure(draw_runs(runs, names, labels=labels, axis=args.x, smooth=args.smooth), args.out)


def _why(run: RunCurves, axis: str) -> str:
    if axis == "epoch":
        return ": its first epoch is not over, so the length of one is unknown"
    return ": no steps.jsonl says when its evaluations were; --x epoch shows them" if run.curves else ""


def _panels(runs: Sequence[RunCurves], only: Sequence[str] | None) -> list[str]:
    """Names to draw, in order: losses, rates, what watches them, queue, speed, evaluations."""
    found = {name: None for run in runs for name in (*run.curves, *run.evaluated)}
    if only:
        for pattern in only:
            if not any(_matches(name, pattern) for name in found):
                raise ValueError(f"--only {pattern}: no such curve; there are {', '.join(sorted(found))}")
        return sorted((n for n in found if any(_matches(n, p) for p in only)), key=_place)
    return sorted((name for name in found if _is_usual(name, runs)), key=_place)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(": ")[2], pattern)


def _is_usual(name: str, runs: Sequence[RunCurves]) -> bool:
    """Left to --only: most figures of evaluations, rates that repeat their group's, counts of nothing."""
    if ": " in name:
        return name.rpartition(": ")[2] in [f"{d}/{figure}" for d in ("t2v", "v2t") for figure in FIGURES]
    if name in COUNTS and not any(point.value for run in runs for point in run.curves.get(name, ())):
        return False
    twin = name.removesuffix(" no decay")
    return twin == name or any(run.curves.get(name) != run.curves.get(twin) for run in runs)


def _place(name: str) -> tuple[int, str, int, str]:
    """Key that sorts panels."""
    about, colon, figure = name.rpartition(": ")
    if colon:
        direction, _, kind = figure.partition("/")
        return 4, f"{about} {direction}", FIGURES.index(kind) if kind in FIGURES else len(FIGURES), figure
    if name in ORDER:
        return 0, "", ORDER.index(name), ""
    if name in TAIL:
        return 3, "", TAIL.index(name), ""
    return (2, "", 0, name) if name.startswith("lr/") else (1, "", 0, name)


def _write_table(runs: Sequence[RunCurves], path: Path) -> None:
    with atomic_open(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in runs:
            writer.writerows(_rows(run))


def _rows(run: RunCurves) -> Iterator[list[object]]:
    """Empty cells where a position is unknown or the value was not finite."""
    about = [run.label, str(run.folder)]
    for name, points in run.curves.items():
        for point in points:
            value = point.value if math.isfinite(point.value) else None
            yield [*about, name, point.step, point.epoch, point.hours, value]
    for name, figure in run.evaluated.items():
        yield [*about, name, None, None, None, figure]


def _say(message: str) -> None:
    print(f"plot_runs.py: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
