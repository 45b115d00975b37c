"""The rows of a table of captions: columns by any of their usual names, in CSV, JSON lines or a JSON array.

A row has a clip and a caption, in JSON also several; perhaps its split and its language.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.languages import LANGUAGES
from dataloaders.datasets.files import csv_rows, open_text, read_json, read_json_lines
from video.clip_table import VIDEO, Clip, ClipColumns, clip_columns, find_column

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
SPLITS = ("train", "val", "test")
CAPTION = ("caption", "sentence", "text", "title", "description", "query", "描述", "文本", "标题")
SPLIT = ("split", "subset", "set", "partition")
LANGUAGE = ("language", "lang")
_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LANGUAGE_OF = {
    **dict.fromkeys(("english", "en", "eng", "en-us", "en-gb", "英文", "英语"), "english"),
    **dict.fromkeys(("chinese", "zh", "zho", "cn", "zh-cn", "中文", "汉语"), "chinese"),
}
NONE = -1  # no such column


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called in its header."""

    clip: ClipColumns
    caption: str
    split: str | None
    language: str | None

    @property
    def names(self) -> tuple[str, ...]:
        named = (*self.clip.names, self.caption, self.split, self.language)
        return tuple(name for name in named if name is not None)


class Row(NamedTuple):
    """One row. `split` and `language` are positions in `SPLITS` and `LANGUAGES`, or `NONE`."""

    place: str  # "line 3"
    clip: Clip
    captions: list[str]
    split: int
    language: int


class Rows:
    """The rows of a table, one after another; afterwards `columns` (None: no rows) and `unused` columns.

    Raises `UserError` with the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: Columns | None = None
        self._names: dict[str, None] = {}

    @property
    def unused(self) -> tuple[str, ...]:
        """The columns that are not read."""
        used = self.columns.names if self.columns else ()
        return tuple(name for name in self._names if name not in used)

    def __iter__(self) -> Iterator[Row]:
        header: tuple[str, ...] = ()
        cells: tuple[Any, ...] | None = None
        clip: Clip | None = None
        for place, row in _rows_of(self.path):
            where = f"{self.path}, {place}"
            if header != tuple(row):
                header = tuple(row)
                columns = self._columns_of(header, where)
                cells = None
            # Mostly the captions of a clip follow one another.
            before, cells = cells, tuple([row[name] for name in columns.clip.names])
            if clip is None or before != cells:
                clip = columns.clip.clip_of(row, place=where)
            captions = _captions(row, columns.caption, where)
            split = _code(row, columns.split, _SPLIT_OF, SPLITS, where)
            language = _code(row, columns.language, _LANGUAGE_OF, LANGUAGES, where)
            yield Row(place, clip, captions, split, language)

    def _columns_of(self, header: tuple[str, ...], where: str) -> Columns:
        columns = _columns(header)
        if columns is None:
            raise UserError(f"{where}: {_absent(header)}")
        first = self.columns or columns
        for name in ("split", "language"):
            if (getattr(columns, name) is None) != (getattr(first, name) is None):
                raise UserError(f"{where}: some rows have a {name}, others have none")
        self.columns = first
        self._names.update(dict.fromkeys(header))
        return columns


@lru_cache(maxsize=64)
def _columns(header: tuple[str, ...]) -> Columns | None:
    clip, caption = clip_columns(header), find_column(header, CAPTION)
    if clip is None or caption is None:
        return None
    return Columns(clip, caption, find_column(header, SPLIT), find_column(header, LANGUAGE))


def _absent(header: Iterable[str]) -> str:
    what, names = ("video", ("video_id", *VIDEO)) if clip_columns(header) is None else ("caption", CAPTION)
    written = ", ".join(map(str, header))[:200] or "none"
    return f"has no column of the {what}: one of {', '.join(names)}; its columns: {written}"


def _captions(row: Mapping[str, Any], column: str, where: str) -> list[str]:
    """The caption of a row, or in JSON the captions."""
    value = row[column]
    captions = value if isinstance(value, list) else ["" if value is None else value]
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: its {column} must be a text, it is {value!r}"[:200])
    return captions


def _code(
    row: Mapping[str, Any], column: str | None, known: Mapping[str, str], codes: tuple[str, ...], where: str
) -> int:
    if column is None:
        return NONE
    name = known.get(str(row[column]).strip().lower())
    if name is None:
        raise UserError(f"{where}: {column} {row[column]!r}: must be one of {', '.join(known)}")
    return codes.index(name)


def _rows_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(line, row) of a table in any of its forms."""
    first = _first_character(path)
    if first == "{":
        for number, record in read_json_lines(path):
            yield f"line {number}", record
    elif first == "[":
        for number, record in enumerate(read_json(path), start=1):
            if not isinstance(record, dict):
                raise UserError(f"{path}, entry {number}: must be an object with video and caption")
            yield f"entry {number}", record
    else:
        rows = csv_rows(path, column=lambda cells: _columns(tuple(cells)))
        _, header = next(rows)
        if _columns(tuple(header)) is None:
            raise UserError(f"{path}: {_absent(header)}")
        for place, cells in rows:
            yield place, dict(zip(header, cells, strict=True))


def _first_character(path: Path) -> str:
    """The first character that is not blank. Raises `UserError` if there is none."""
    with open_text(path) as file:
        for line in file:
            if line.strip():
                return line.strip()[0]
    raise UserError(f"{path}: is empty")
