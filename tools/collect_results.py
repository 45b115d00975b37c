"""Print the published tables with the figures of your runs beside them.

    collect_results.py ckpts/*                              rows found out from config.json
    collect_results.py --row finetune_msrvtt=runs/a runs/b   two runs of one row: mean and deviation
    collect_results.py --own "no queue=runs/c"              a row of your own, published: n/a

Without a folder the published tables alone are printed. Exit code: 0 done, 2 wrong usage or a broken folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder

from common.atomic_files import write_text
from tools.results.published import Published, load_published
from tools.results.result_formats import FORMATS
from tools.results.result_records import Record, own_records, published_records
from tools.results.row_matching import Unplaced, check_row, departures, find_row, size_problem
from tools.results.run_folders import Run, read_run

_EPOCH_NOTES = {
    "reported": "the epoch that each run chose (--select_on, see its line); where a run does not say, the "
    "best t2v/R@1 on the test list, the published way, which flatters",
    "best": "epoch with the best t2v/R@1 on the test list, the published way of choosing, which flatters",
    "last": "last epoch evaluated",
}


@dataclass
class Collection:
    """Runs by published row id, runs by own label, and remarks on them."""

    rows: dict[str, list[Run]] = field(default_factory=dict)
    own: dict[str, list[Run]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="collect_results.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "folders", nargs="*", type=Path, help="output folders of runs; what fits no row is left out, and said"
    )
    add("--row", nargs="+", action="append", default=[], metavar=("ROW=FOLDER", "FOLDER"), help="see above")
    add("--own", nargs="+", action="append", default=[], metavar=("LABEL=FOLDER", "FOLDER"), help="see above")
    add(
        "--epoch",
        type=_epoch,
        default="reported",
        help="reported (as the run chose; default), best (test t2v/R@1), last, or a number from 0",
    )
    add("--format", choices=tuple(FORMATS), default="markdown", help="default markdown")
    add("--out", type=Path, help="file to write instead of printing")
    return parser


def _epoch(text: str) -> str:
    if text in ("reported", "best", "last") or text.isdecimal():
        return text
    raise argparse.ArgumentTypeError(f"reported, best, last or a number from 0, not {text}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        published = load_published()
        collection = collect(args, published)
        records, notes = _content(args, published, collection)
        _write(FORMATS[args.format](records, notes), args.out)
        if args.format == "csv":  # has no place for them
            print("\n".join(notes), file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def collect(args: argparse.Namespace, published: Published) -> Collection:
    """Read all folders. Raises `ValueError` for one that cannot stand in the row or label named for it."""
    found = Collection()
    for folder in args.folders:
        _place(found, folder, published, epoch=args.epoch)
    if args.folders and not found.rows:
        raise ValueError("no folder fits a published row: " + "; ".join(found.notes))
    _drop_evaluated_twice(found)
    for row_id, folder in _named(args.row, what="--row ROW=FOLDER"):
        row, run = published.row(row_id), read_run(folder, epoch=args.epoch)
        check_row(run, row)
        found.rows.setdefault(row_id, []).append(run)
    for label, folder in _named(args.own, what="--own LABEL=FOLDER"):
        found.own.setdefault(label, []).append(read_run(folder, epoch=args.epoch))
    _check_tests_agree(found)
    return found


def _place(found: Collection, folder: Path, published: Published, *, epoch: str) -> None:
    """Put `folder` in the row it belongs to, or a note saying why in none."""
    try:
        run = read_run(folder, epoch=epoch)
        found.rows.setdefault(find_row(run, published).id, []).append(run)
    except Unplaced as reason:
        found.notes.append(f"left out {folder}: {reason}")
    except ValueError as reason:
        found.notes.append(f"left out: {reason}")


def _drop_evaluated_twice(found: Collection) -> None:
    """Leave out a training run where an evaluation of its checkpoint is there too: one model, not two."""
    for row_id, runs in found.rows.items():
        evaluated = {run.made_in.resolve() for run in runs if run.made_in != run.folder}
        for run in [run for run in runs if run.folder.resolve() in evaluated]:
            found.notes.append(f"left out {run.folder}: {row_id} has an evaluation of its checkpoint")
        found.rows[row_id] = [run for run in runs if run.folder.resolve() not in evaluated]


def _named(groups: Iterable[Sequence[str]], *, what: str) -> Iterable[tuple[str, Path]]:
    """(name, folder) of every `NAME=FOLDER [FOLDER...]`; a group may name several."""
    for group in groups:
        name = ""
        for item in group:
            before, equals, after = item.partition("=")
            name = before if equals else name
            if not name:
                raise ValueError(f"{item}: must be {what}")
            yield name, Path(after if equals else item)


def _check_tests_agree(found: Collection) -> None:
    for label, runs in found.own.items():
        tests = {(run.evaluation["dataset"], run.evaluation["language"]) for run in runs}
        if len(tests) > 1:
            raise ValueError(f"--own {label}: its folders were evaluated on different test sets")


def _content(
    args: argparse.Namespace, published: Published, found: Collection
) -> tuple[list[Record], list[str]]:
    """Records and notes. With own rows alone the published tables are left away."""
    only_own = bool(found.own) and not found.rows
    records = [] if only_own else published_records(published, found.rows)
    notes = [] if only_own else [f"Published: {published.source['figures']}; {published.source['paper']}."]
    if found.rows or found.own:
        chosen = _EPOCH_NOTES.get(args.epoch, f"epoch {args.epoch}")
        notes.append(f"Measured: {chosen}. Epochs count from 0. ± is the deviation over runs (n - 1).")
    for row_id, runs in found.rows.items():
        notes += _run_notes(row_id, runs, published)
    for label, runs in found.own.items():
        notes += [f"{label}: {run.describe()}" for run in runs]
    return [*records, *own_records(found.own)], [*notes, *found.notes]


def _run_notes(row_id: str, runs: Sequence[Run], published: Published) -> list[str]:
    """Folder, seed and epoch of each run, and where it departs from the published row."""
    row, notes = published.rows[row_id], []
    for run in runs:
        remarks = departures(run, row)
        problem = size_problem(run, row, published)
        remarks += [f"no difference shown: {problem}"] if problem else []
        notes.append(f"{row_id}: {run.describe()}" + "".join(f"; {remark}" for remark in remarks))
    seeds = [run.seed for run in runs if run.seed is not None]
    if len(set(seeds)) < len(seeds):
        notes.append(f"{row_id}: runs share a seed, so they are not independent")
    return notes


def _write(text: str, path: Path | None) -> None:
    if path is None:
        print(text)
        return
    write_text(path, text + "\n")


if __name__ == "__main__":
    sys.exit(main())
