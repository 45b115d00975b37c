"""Print the published tables and the results of your runs next to them.

    collect_results.py ckpts/*                               rows are found from config.json
    collect_results.py --row finetune_msrvtt=runs/a runs/b   two runs of one row: mean and deviation
    collect_results.py --own "no queue=runs/c"               a row of your own, published: n/a

A bilingual run gives --own two rows, one for each language, and --row that of the row's language.
Without folders only the published tables are printed. Exit code: 0 done, 2 wrong usage or a broken folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.atomic_files import check_target, write_text
from common.errors import UserError, run_program
from tools.results.published import Published, load_published
from tools.results.result_formats import FORMATS
from tools.results.result_records import Record, own_records, published_records
from tools.results.row_matching import UnplacedError, check_row, differing_settings, find_row, size_problem
from tools.results.run_folders import Run, read_run

_EPOCH_NOTES = {
    "reported": "the epoch that each run chose (--select_on, see its line); if a run did not choose, the one "
    "with the best t2v/R@1 on the test list, as in the published tables, which is too optimistic",
    "best": "the epoch with the best t2v/R@1 on the test list, as in the published tables, which is too "
    "optimistic",
    "last": "the last epoch that was evaluated",
}


@dataclass
class Collection:
    """Runs by published row id, runs by own label, and notes on them."""

    rows: dict[str, list[Run]] = field(default_factory=dict)
    own_runs: dict[str, list[Run]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="collect_results.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "folders",
        nargs="*",
        type=Path,
        help="output folders of runs; a note names those that fit no row",
    )
    add("--row", nargs="+", action="append", default=[], metavar=("ROW=FOLDER", "FOLDER"), help="see above")
    add("--own", nargs="+", action="append", default=[], metavar=("LABEL=FOLDER", "FOLDER"), help="see above")
    add(
        "--epoch",
        type=_epoch,
        default="reported",
        help="reported (as the run chose; default), best (test t2v/R@1), last, or N of pytorch_model.bin.N",
    )
    add("--format", choices=tuple(FORMATS), default="markdown", help="default markdown")
    add("--out", type=Path, help="file to write instead of printing")
    return parser


def _epoch(text: str) -> str:
    if text in ("reported", "best", "last") or text.isdecimal():
        return text
    raise argparse.ArgumentTypeError(f"reported, best, last or N of pytorch_model.bin.N, not {text}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("collect_results.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.out:
        check_target(args.out, "--out")
    published = load_published()
    collection = collect(args, published)
    records, notes = _content(args, published, collection)
    _write(FORMATS[args.format](records, notes), args.out)
    if args.format == "csv":  # a CSV file has no place for notes
        print("\n".join(notes), file=sys.stderr)
    return 0


def collect(args: argparse.Namespace, published: Published) -> Collection:
    """Read all folders. Raises `UserError` for a run that does not fit the row or label given for it."""
    collection = Collection()
    for folder in args.folders:
        _place(collection, folder, published, epoch=args.epoch)
    if args.folders and not collection.rows:
        reasons = "; ".join(collection.notes)
        raise UserError(f"no folder fits a published row (--own LABEL=FOLDER takes any run): {reasons}")
    _drop_evaluated_twice(collection)
    for row_id, folder in _named(args.row, what="--row ROW=FOLDER"):
        row, run = published.row(row_id), read_run(folder, epoch=args.epoch)
        run = run.by_language().get(row.language, run)
        check_row(run, row)
        collection.rows.setdefault(row_id, []).append(run)
    for label, folder in _named(args.own, what="--own LABEL=FOLDER"):
        by_language = read_run(folder, epoch=args.epoch).by_language()
        for language, run in by_language.items():
            of_language = f"{label}, {language}" if len(by_language) > 1 else label
            collection.own_runs.setdefault(of_language, []).append(run)
    _check_tests_agree(collection)
    return collection


def _place(collection: Collection, folder: Path, published: Published, *, epoch: str) -> None:
    """Add the run to its row, or a note that says why it fits none."""
    try:
        run = read_run(folder, epoch=epoch)
        collection.rows.setdefault(find_row(run, published).id, []).append(run)
    except UnplacedError as reason:
        collection.notes.append(f"left out {folder}: {reason}")
    except UserError as reason:
        collection.notes.append(f"left out: {reason}")


def _drop_evaluated_twice(collection: Collection) -> None:
    """Drop a training run if its row has an evaluation of its checkpoint: the model would count twice."""
    for row_id, runs in collection.rows.items():
        evaluated = {run.trained_in.resolve() for run in runs if run.trained_in != run.folder}
        for run in [run for run in runs if run.folder.resolve() in evaluated]:
            collection.notes.append(f"left out {run.folder}: {row_id} has an evaluation of its checkpoint")
        collection.rows[row_id] = [run for run in runs if run.folder.resolve() not in evaluated]


def _named(groups: Iterable[Sequence[str]], *, what: str) -> Iterable[tuple[str, Path]]:
    """(name, folder) of each folder in `NAME=FOLDER [FOLDER...]` groups; a group may have several names."""
    for group in groups:
        name = ""
        for item in group:
            before, equals, after = item.partition("=")
            name = before if equals else name
            if not name:
                raise UserError(f"{item}: must be {what}")
            yield name, Path(after if equals else item)


def _check_tests_agree(collection: Collection) -> None:
    for label, runs in collection.own_runs.items():
        tests = {(run.evaluation["dataset"], run.evaluation["language"]) for run in runs}
        if len(tests) > 1:
            raise UserError(f"--own {label}: its folders were evaluated on different test sets")


def _content(
    args: argparse.Namespace, published: Published, collection: Collection
) -> tuple[list[Record], list[str]]:
    """Records and notes. If there are own rows only, the published tables are left out."""
    only_own = bool(collection.own_runs) and not collection.rows
    records = [] if only_own else published_records(published, collection.rows)
    notes = [] if only_own else [f"Published: {published.source['figures']}; {published.source['paper']}."]
    if not only_own:
        notes += [f"Published, {names}: {source}." for source, names in _other_sources(published).items()]
    if collection.rows or collection.own_runs:
        chosen = (
            _EPOCH_NOTES.get(args.epoch) or f"epoch {int(args.epoch) + 1} (pytorch_model.bin.{args.epoch})"
        )
        notes.append(f"Measured: {chosen}. ± is the deviation over runs (n - 1).")
    for row_id, runs in collection.rows.items():
        notes += _run_notes(row_id, runs, published)
    for label, runs in collection.own_runs.items():
        notes += [f"{label}: {run.describe()}" for run in runs]
    return [*records, *own_records(collection.own_runs)], [*notes, *collection.notes]


def _other_sources(published: Published) -> dict[str, str]:
    """The sources of rows that are not of the HMMC code, with the rows of each."""
    rows: dict[str, list[str]] = {}
    for row in published.rows.values():
        if row.source:
            rows.setdefault(published.source[row.source], []).append(row.method)
    return {source: ", ".join(methods) for source, methods in rows.items()}


def _run_notes(row_id: str, runs: Sequence[Run], published: Published) -> list[str]:
    """Folder, seed and epoch of each run, and its differences from the published row."""
    row, notes = published.rows[row_id], []
    for run in runs:
        remarks = differing_settings(run, row)
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
