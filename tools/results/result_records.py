"""Published and measured results as records: one per row, direction and kind of figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tools.results.published import COLUMNS, DIRECTIONS, Published, PublishedRow
from tools.results.row_matching import size_problem
from tools.results.run_folders import Run

OWN_TABLE = "own runs"
TABLES = ("zero-shot", "fine-tune", OWN_TABLE)


@dataclass(frozen=True)
class Record:
    """One line of a table. `values` are in the order of COLUMNS; `deviations` need at least two runs."""

    table: str
    direction: str
    row: str
    method: str
    test: str
    figures: str  # "published", "measured", "difference"
    values: tuple[float, ...]
    deviations: tuple[float, ...] | None = None
    runs: int | None = None
    seeds: int | None = None  # number of distinct known seeds
    comparable: bool | None = True  # None: nobody can say


def published_records(published: Published, runs: Mapping[str, Sequence[Run]]) -> list[Record]:
    """All published rows in order, with the measured figures and the difference of `runs` by row id.

    The difference is mean - published; it is left out if the test list is not the published one.
    """
    records = []
    for table in TABLES:
        for direction in DIRECTIONS:
            for row in published.rows.values():
                if row.table == table:
                    records += _row_records(row, direction, runs.get(row.id, ()), published)
    return records


def _row_records(
    row: PublishedRow, direction: str, runs: Sequence[Run], published: Published
) -> list[Record]:
    head = (row.table, direction, row.id, row.method, row.test)
    figures = tuple(row.figures[f"{direction}/{column}"] for column in COLUMNS)
    records = [Record(*head, "published", figures)]
    if not runs:
        return records
    comparable = not any(size_problem(run, row, published) for run in runs)
    measured = _measured(head, runs, comparable=comparable)
    records.append(measured)
    if comparable:
        difference = tuple(mean - paper for mean, paper in zip(measured.values, figures, strict=True))
        records.append(Record(*head, "difference", difference))
    return records


def own_records(runs: Mapping[str, Sequence[Run]]) -> list[Record]:
    """Measured figures of runs that do not belong to a published row, by label."""
    records = []
    for direction in DIRECTIONS:
        for label, group in runs.items():
            evaluation = group[0].evaluation
            test = f"{evaluation['dataset']} ({evaluation['language']})"
            head = (OWN_TABLE, direction, label, label, test)
            records.append(_measured(head, group, comparable=_is_comparable(group)))
    return records


def _is_comparable(runs: Sequence[Run]) -> bool | None:
    """Whether all runs used a published test list, as far as their results say."""
    said = {run.evaluation.get("comparable") for run in runs}
    return False if False in said else True if said == {True} else None


def _measured(
    head: tuple[str, str, str, str, str], runs: Sequence[Run], *, comparable: bool | None
) -> Record:
    columns = [[float(run.evaluation[f"{head[1]}/{column}"]) for run in runs] for column in COLUMNS]
    return Record(
        *head,
        "measured",
        tuple(statistics.fmean(column) for column in columns),
        deviations=tuple(statistics.stdev(column) for column in columns) if len(runs) > 1 else None,
        runs=len(runs),
        seeds=len(_seeds(runs)),
        comparable=comparable,
    )


def _seeds(runs: Iterable[Run]) -> set[int]:
    return {run.seed for run in runs if run.seed is not None}
