"""Records as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from tools.results.published import COLUMNS, DIRECTIONS
from tools.results.result_records import OWN_TABLE, Record

_HEAD = ("method", "test", "figures")
_LATEX = str.maketrans(
    {c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
)


def markdown(records: Sequence[Record], notes: Sequence[str]) -> str:
    """One table per section and direction, then the notes as a list."""
    parts = []
    for title, group in _tables(records):
        lines = [f"### {title}", "", _bar(_HEAD + COLUMNS), "|" + " --- |" * 3 + " ---: |" * len(COLUMNS)]
        lines += [_bar([cell.replace("|", r"\|") for cell in cells]) for cells in _rows(group)]
        parts.append("\n".join(lines))
    parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(part for part in parts if part)


def latex(records: Sequence[Record], notes: Sequence[str]) -> str:
    """One `tabular` (package booktabs) per section and direction; the notes are comments."""
    parts = ["\n".join(f"% {note}" for note in notes)]
    for title, group in _tables(records):
        lines = [f"% {title}", r"\begin{tabular}{lll" + "r" * len(COLUMNS) + "}", r"\toprule"]
        lines += [" & ".join(_HEAD + COLUMNS) + r" \\", r"\midrule"]
        for cells in _rows(group):
            escaped = [cell.translate(_LATEX).replace("±", r"$\pm$") for cell in cells]
            lines.append(" & ".join(escaped) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(part for part in parts if part)


def comma_separated(records: Sequence[Record], notes: Sequence[str]) -> str:
    """One line per record, unrounded, without notes."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    deviations = [f"{column} deviation" for column in COLUMNS]
    writer.writerow(
        ["table", "direction", "row", *_HEAD, "runs", "seeds", "comparable", *COLUMNS, *deviations]
    )
    for r in records:
        values = ["" if math.isnan(value) else f"{value:.6g}" for value in r.values]
        spread = [f"{value:.6g}" for value in r.deviations] if r.deviations else [""] * len(COLUMNS)
        head = [r.table, r.direction, r.row, r.method, r.test, r.figures]
        comparable = "" if r.comparable is None else "yes" if r.comparable else "no"
        writer.writerow([*head, r.runs, r.seeds, comparable, *values, *spread])
    return file.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Sequence[Record], Sequence[str]], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
}


def _tables(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    for (table, direction), group in itertools.groupby(records, key=lambda r: (r.table, r.direction)):
        suffix = "; published: n/a" if table == OWN_TABLE else ""
        yield f"{DIRECTIONS[direction]}, {table}{suffix}", list(group)


def _rows(records: Iterable[Record]) -> Iterator[list[str]]:
    """Cells as text. Method and test are in the first line of each row only."""
    row = None
    for record in records:
        first = record.row != row
        row = record.row
        form = "{:+.1f}" if record.figures == "difference" else "{:.1f}"
        values = ["n/a" if math.isnan(value) else form.format(value) for value in record.values]
        if record.deviations:
            pairs = zip(values, record.deviations, strict=True)
            values = [f"{value} ± {spread:.1f}" for value, spread in pairs]
        yield [record.method if first else "", record.test if first else "", _figures(record), *values]


def _figures(record: Record) -> str:
    if record.runs is None:
        return record.figures
    runs = f"{record.runs} run" + "s" * (record.runs > 1)
    seeds = f", {record.seeds} seed" + "s" * (record.seeds != 1) if record.runs > 1 else ""
    other = ", not the published test list" if record.comparable is False else ""
    return f"{record.figures} ({runs}{seeds}{other})"


def _bar(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
