"""Reading annotation files: JSON, JSON lines, CSV (also with tabs or semicolons) and lists of ids.

Text is UTF-8; a byte-order mark is skipped. Every string comes back exactly as in the file: "null", "NA",
"007" and the empty string stay strings. All errors are `UserError`s of one line that names the file.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from common.csv_text import WantedColumn, delimiter_of, read_rows
from common.errors import FileError, UserError, file_error, file_errors
from common.json_stream import iter_members
from common.json_text import parse_fast, parse_json
from common.text_encodings import not_utf8

FilePath = str | PathLike[str]
ID_COLUMN = "video_id"  # all tables have it
_PIPES: dict[str, bytes] = {}  # the contents of the pipes that were read, by name


@contextmanager
def open_text(path: FilePath, *, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text file for reading; `errors` is that of `open`.

    Raises `FileError` if the file is missing or cannot be opened, and `UserError` if, while it is read, it
    turns out not to be UTF-8.
    """
    with _open(path, errors) as file:
        try:
            with file_errors(str(path)):
                yield file
        except UnicodeDecodeError as error:
            raise not_utf8(path, error) from None


def _open(path: FilePath, errors: str) -> TextIO:
    try:
        if Path(path).is_fifo():
            return io.TextIOWrapper(_open_pipe(path), encoding="utf-8-sig", newline="", errors=errors)
        return open(path, encoding="utf-8-sig", newline="", errors=errors)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise FileError(f"{path}: is a folder, a file is needed") from None
    except OSError as error:
        raise file_error(str(path), "cannot be read", error) from None


def _open_pipe(path: FilePath) -> io.BytesIO:
    """The content of a pipe, such as `<(head list.csv)` of a shell, which gives it only once."""
    name = str(path)
    if name not in _PIPES:
        _PIPES[name] = Path(path).read_bytes()
    return io.BytesIO(_PIPES[name])


def read_json(
    path: FilePath, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The content of a JSON file. Raises `UserError` with the line of a syntax error.

    `object_pairs_hook` is that of `json.loads`: it makes each object of its (key, value) pairs.
    """
    with open_text(path) as file:
        text = file.read()
    if not text.strip():
        raise UserError(f"{path}: is empty")
    try:
        return parse_json(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: is not JSON ({error.msg})") from None


def stream_json(path: FilePath, *, items_of: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """The members of a file with one JSON object, see `iter_members`: in less memory than `read_json` takes.

    Raises `ValueError` or `RecursionError` for a file that `read_json` must look at.
    """
    with open_text(path) as file:
        text = file.read()
    yield from iter_members(text, items_of=items_of)


def read_json_object(path: FilePath) -> dict[str, Any]:
    """The content of a JSON file that holds one object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a JSON object")
    return content


def read_json_lines(path: FilePath, *, growing: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a file with one JSON object per line; blank lines are skipped.

    `growing` is for a file that a run appends to: it may be empty, and a last line without a newline is
    skipped, as the run was killed or is still writing it. Raises `UserError` for a line that is not a JSON
    object and for an empty file.
    """
    empty = True
    with open_text(path, errors="replace" if growing else "strict") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace() or (growing and not line.endswith("\n")):
                continue
            try:
                record = parse_fast(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: is not JSON ({error.msg})") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: must be a JSON object, one per line")
            empty = False
            yield number, record
    if empty and not growing:
        raise UserError(f"{path}: is empty")


def read_id_list(path: FilePath) -> list[str]:
    """The ids of a list file, see `listed_ids`, each once. Raises `UserError` if there are none."""
    ids = dict.fromkeys(listed_ids(path))
    if not ids:
        raise UserError(f"{path}: is empty")
    return list(ids)


def listed_ids(path: FilePath) -> list[str]:
    """The ids of a list file in order, with repetitions: the column `video_id` of a table, or one id a line.

    Blank lines are skipped. Raises `UserError` for a line with a tab in a file without that column.
    """
    lines = read_lines(path)
    if lines and delimiter_of(lines[0], ID_COLUMN) is not None:
        return [video_id for _, (video_id,) in read_csv(path, [ID_COLUMN])]
    tab = next((line for line in lines if "\t" in line), None)
    if tab is not None:
        raise UserError(
            f"{path}: has a tab in the line {tab[:60]!r}; a list has one id a line,"
            f" or a header with the column {ID_COLUMN}"
        )
    return lines


def read_lines(path: FilePath) -> list[str]:
    """The lines of a text file without surrounding spaces; blank lines are skipped."""
    with open_text(path) as file:
        return [line.strip() for line in file if line.strip()]


def csv_columns(path: FilePath) -> list[str]:
    """The header of a CSV file. Raises `UserError` if the file is empty."""
    for _, header in csv_rows(path):
        return header
    raise UserError(f"{path}: is empty")


def read_csv(path: FilePath, columns: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """("line 3", cells of `columns`) of every row below the header; blank lines are skipped.

    Raises `UserError` if a column is missing, if there are no rows, and for a row that does not have as many
    cells as the header or whose `video_id` is wanted and empty.
    """
    rows = csv_rows(path)
    header = next((cells for _, cells in rows), None)
    if header is None:
        raise UserError(f"{path}: is empty")
    absent = [name for name in columns if name not in header]
    if absent:
        raise UserError(f"{path}: has no column {absent[0]!r} (its header is: {','.join(header)})")
    positions = [header.index(name) for name in columns]
    empty = True
    for place, row in rows:
        empty = False
        cells = dict(zip(columns, (row[position] for position in positions), strict=True))
        if not cells.get(ID_COLUMN, "?").strip():
            raise UserError(f"{path}, {place}: its {ID_COLUMN} is empty")
        yield place, tuple(cells.values())
    if empty:
        raise UserError(f"{path}: has a header but no rows")


def csv_rows(path: FilePath, *, column: WantedColumn = ID_COLUMN) -> Iterator[tuple[str, list[str]]]:
    """("line 3", cells) of every row that is not blank, the header first; see `read_rows`."""
    with open_text(path) as file:
        yield from read_rows(file, str(path), column=column)


def repeated(ids: Iterable[str]) -> list[str]:
    """The ids that come more than once, each once."""
    return [video_id for video_id, count in Counter(ids).items() if count > 1]


def repeated_keys(path: FilePath) -> list[str]:
    """Repeated keys of the outermost object of a JSON file; a parser silently keeps the last one."""
    found: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> bool:
        # Called for inner objects first, so the result of the outermost object remains.
        found[:] = repeated(key for key, _ in pairs)
        return True

    return found if read_json(path, object_pairs_hook=collect) is True else []


def name_some(ids: Iterable[str], limit: int = 5) -> str:
    """The first ids, for a message: "a, b, c", with ", ..." if more follow."""
    listed = list(ids)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def require_all(
    path: FilePath, wanted: Sequence[str], present: Iterable[str], *, listed_in: FilePath
) -> None:
    """Raise `UserError`, with their number and the first five ids, if listed videos have no captions in
    `path`."""
    with_captions = set(present)
    absent = [video_id for video_id in wanted if video_id not in with_captions]
    if absent:
        raise UserError(
            f"{path}: has no captions for {len(absent)} of the {len(wanted)} videos in {listed_in}:"
            f" {name_some(absent)}"
        )
