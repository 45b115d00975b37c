"""Tables in text: rows of cells between commas, tabs or semicolons. The one strict reader of all lists.

A cell in double quotes may hold delimiters and line breaks. A quote that is not closed is an error; a lenient
reader would take the rest of the file for one cell.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from common.errors import UserError

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon"}


# The column that a table must have, or whether a header has what is wanted.
WantedColumn = str | Callable[[list[str]], object]


def delimiter_of(first_line: str, column: WantedColumn) -> str | None:
    """The delimiter with which the first line of a table has the column; None if there is none."""
    for delimiter in DELIMITERS:
        cells = first_cells(first_line, delimiter)
        if column in cells if isinstance(column, str) else column(cells):
            return delimiter
    return None


def likely_delimiter(first_line: str) -> str:
    """The delimiter that gives the most cells; a comma if none gives more than one."""
    return max(DELIMITERS, key=lambda delimiter: len(first_cells(first_line, delimiter)))


def first_cells(line: str, delimiter: str = ",") -> list[str]:
    """The cells of one line; none if it is no row, because of an unclosed quote or NUL characters."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def read_rows(lines: Iterable[str], name: str, *, column: WantedColumn) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of every row that is not blank, the header first; `name` is the file, for messages.

    `lines` keep their line ends. The place is "line 3", or "lines 3 to 5" of a row with line breaks. The
    delimiter is that with which the header has `column`, else the likely one. Raises `UserError` for text
    that is no table, and for a row that does not have as many cells as the header.
    """
    lines, first = _with_first(iter(lines))
    delimiter = delimiter_of(first, column) or likely_delimiter(first)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    width = before = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            place = _place(before + 1, rows.line_num)
            raise UserError(f"{name}, {place}: is not CSV ({error})") from None
        if row is None:
            return
        place, before = _place(before + 1, rows.line_num), rows.line_num
        if not row:
            continue
        width = width or len(row)
        if len(row) != width:
            raise UserError(
                f"{name}, {place}: has {len(row)} cells, the header has {width}"
                f" (a cell with a {DELIMITERS[delimiter]} must be quoted)"
            )
        yield place, row


def _with_first(lines: Iterator[str]) -> tuple[Iterator[str], str]:
    """All `lines` again, and the first that is not blank."""
    taken: list[str] = []
    for line in lines:
        taken.append(line)
        if line.strip():
            break
    return chain(taken, lines), taken[-1].rstrip("\r\n") if taken else ""


def _place(first: int, last: int) -> str:
    return f"line {last}" if first >= last else f"lines {first} to {last}"
