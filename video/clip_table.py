"""The columns of a table that say which clip a row is about: frame stores are built from a table, and
training reads the captions of the same one, so both must find the same id.

With a column `video_id`, its cells are the ids, exactly as they are written. Else a column `video` names the
file, with its extension or without, and the id is made by `clip_id`. Importing this file is cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from common.errors import UserError
from video.clip_ids import clip_id, parse_clip_id
from video.file_names import without_extension

ID = "video_id"
# Names of a column, the preferred one first; capitals and outer spaces do not matter.
VIDEO = (
    *("video", "file", "filename", "file_name", "path", "video_path", "video_file", "video_name"),
    *("videoid", "clip", "vid", "视频"),
)
START = ("start", "start_time")
END = ("end", "end_time")


class NoVideoError(UserError):
    """A row whose cell for the video is empty or no text."""


class Clip(NamedTuple):
    """Seconds `start` to `end` (infinity: its end) of the video `file`, and the id under which it is stored.

    `file` is the path below the folder of the videos, with or without extension.
    """

    video_id: str
    file: str
    start: float = 0.0
    end: float = inf

    @property
    def source(self) -> str:
        """The video that this is a part of, by the id or by the name of the file."""
        part = parse_clip_id(self.video_id)
        return part.source if part is not None else without_extension(self.file)


@dataclass(frozen=True)
class ClipColumns:
    """The columns of one table. `is_id`: the cells of `video` are ids."""

    video: str
    start: str | None
    end: str | None
    is_id: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that the table has."""
        return tuple(name for name in (self.video, self.start, self.end) if name is not None)

    def clip_of(self, row: Mapping[str, Any], *, place: str) -> Clip:
        """The clip of a row; `place` is file and line, for messages.

        Raises `NoVideoError`, and `UserError` if start and end are no seconds, leave nothing between, or if
        the video is no path below a folder.
        """
        video = _text(row.get(self.video), f"{place}: its {self.video}")
        start, end = (_seconds(row, name, place=place) for name in (self.start, self.end))
        start = 0.0 if start is None else start
        end = inf if end is None else end
        if not 0 <= start < end:
            raise UserError(f"{place}: start {start:g} s and end {end:g} s leave nothing between")
        if self.is_id:
            return Clip(video, video, start, end)
        start, end = round(start, 3), round(end, 3)
        file = _relative(video, f"{place}: {self.video} {video!r}")
        return Clip(clip_id(without_extension(file), start, end), file, start, end)


def clip_columns(header: Iterable[str]) -> ClipColumns | None:
    """The columns of a table by its header; None if none of them names a video."""
    return _clip_columns(tuple(header))


@lru_cache(maxsize=64)  # JSON has a header in every line
def _clip_columns(header: tuple[str, ...]) -> ClipColumns | None:
    if ID in header:
        start, end = ("start" if "start" in header else None), ("end" if "end" in header else None)
        return ClipColumns(ID, start, end, is_id=True)
    video = find_column(header, VIDEO)
    if video is None:
        return None
    return ClipColumns(video, find_column(header, START), find_column(header, END), is_id=False)


def find_column(header: Iterable[str], names: Iterable[str]) -> str | None:
    """The column of a header that has the first of `names` that is there, as it is written in the header."""
    written = {column.strip().lower(): column for column in reversed(list(header))}
    return next((written[name] for name in names if name in written), None)


def _text(value: Any, what: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise NoVideoError(f"{what} is empty")
    if not isinstance(value, str):
        raise NoVideoError(f"{what} is no text")
    return value


def _seconds(row: Mapping[str, Any], column: str | None, *, place: str) -> float | None:
    value = row.get(column) if column is not None else None
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{place}: {column} {value!r}: start and end must be seconds, such as 62.5") from None


def _relative(video: str, what: str) -> str:
    """The path below the folder of the videos, with slashes."""
    path = video.strip().replace("\\", "/").removeprefix("./")
    if path.startswith("/") or path[1:3] == ":/":
        raise UserError(f"{what}: an absolute path; write the path below the folder of the videos")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise UserError(f"{what}: must be a file's name, or a path below the folder of the videos")
    return path
