"""Reading annotation files: JSON, JSON lines, CSV and lists of ids.

Text is UTF-8, a byte-order mark is tolerated, and every string comes back exactly as it is in the file:
"null", "NA", "007" and the empty string stay strings. Whatever is wrong with a file becomes one line that
names it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from typing import Any, TextIO

FilePath = str | PathLike[str]


@contextmanager
def open_text(path: FilePath) -> Iterator[TextIO]:
    """Open an annotation file for reading.

    Raises ValueError naming the file when it is absent, unreadable, or (while it is read) not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, a file is needed") from None
    except PermissionError:
        raise ValueError(f"{path}: no permission to read it") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: FilePath) -> Any:
    """The content of a JSON file. Raises ValueError naming the file, and the line of a syntax error."""
    with open_text(path) as file:
        text = file.read()
    if not text.strip():
        raise ValueError(f"{path}: is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: is not JSON ({error.msg})") from None


def read_json_lines(path: FilePath) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a file with one JSON object a line; blank lines are skipped.

    Raises ValueError naming the file and line where one is no JSON object, and the file when it holds none.
    """
    found = False
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: is not JSON ({error.msg})") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: must be a JSON object, one a line")
            found = True
            yield number, record
    if not found:
        raise ValueError(f"{path}: is empty")


def read_id_list(path: FilePath) -> list[str]:
    """The ids of a list file, one a line, in order; blank lines are skipped, an id listed twice counts
    once."""
    with open_text(path) as file:
        ids = dict.fromkeys(line.strip() for line in file)
    ids.pop("", None)
    if not ids:
        raise ValueError(f"{path}: is empty")
    return list(ids)


def csv_columns(path: FilePath) -> list[str]:
    """The header of a CSV file. Raises ValueError when the file is empty."""
    for _, header in _csv_rows(path):
        return header
    raise ValueError(f"{path}: is empty")


def read_csv(path: FilePath, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line number, cells of `columns`) of every row below the header; blank lines are skipped.

    Raises ValueError naming the file when a column is missing or there are no rows, and the line where a row
    has another number of cells than the header.
    """
    header = csv_columns(path)
    absent = [name for name in columns if name not in header]
    if absent:
        raise ValueError(f"{path}: has no column {absent[0]!r} (its header is: {','.join(header)})")
    places = [header.index(name) for name in columns]
    found = False
    for number, row in islice(_csv_rows(path), 1, None):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {number}: has {len(row)} cells, the header has {len(header)}"
                " (a cell with a comma must be quoted)"
            )
        found = True
        yield number, tuple(row[place] for place in places)
    if not found:
        raise ValueError(f"{path}: has a header but no rows")


def _csv_rows(path: FilePath) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells) of every row that is not blank."""
    with open_text(path) as file:
        # strict: a quote that never closes is an error instead of swallowing the rest of the file.
        rows = csv.reader(file, strict=True)
        try:
            for row in rows:
                if row:
                    yield rows.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: is not CSV ({error})") from None


def name_some(ids: Iterable[str], limit: int = 5) -> str:
    """The first ids, for a message: "a, b, c", with ", ..." where more follow."""
    listed = list(ids)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def require_all(
    path: FilePath, wanted: Sequence[str], present: Iterable[str], *, listed_in: FilePath
) -> None:
    """Raise ValueError, with a count and the first five ids, where listed videos have no captions in
    `path`."""
    have = set(present)
    absent = [video_id for video_id in wanted if video_id not in have]
    if absent:
        raise ValueError(
            f"{path}: has no captions for {len(absent)} of the {len(wanted)} videos in {listed_in}:"
            f" {name_some(absent)}"
        )
