"""Which videos to store: from a list, or all of a folder; and where their files are."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from video.sampling import Window
from video.video_extensions import video_extensions

# VATEX names a clip by its video and the seconds where it starts and ends.
_CLIP_ID = re.compile(r"(.+)_(\d{6})_(\d{6})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A video to store: its id, the name that its file bears, and the part of it to take."""

    video_id: str
    file_id: str
    window: Window = Window()


def read_list(path: Path, *, clip_from_id: bool = False) -> list[Wanted]:
    """The videos of a list: JSON lines, a JSON array, a csv with the column `video_id`, or one id a line.

    Fields `start` and `end` (seconds) cut out a part. An id that comes again is taken once. Raises
    `ValueError` naming file and line where a line has no usable id, an id comes again with another part, a
    csv has no such column, or the list is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    wanted: dict[str, Wanted] = {}
    for place, row in _rows(path, text):
        entry = _entry(row, place=f"{path}, {place}", clip_from_id=clip_from_id)
        if wanted.setdefault(entry.video_id, entry) != entry:
            raise ValueError(f"{path}, {place}: {entry.video_id!r} comes again with another start or end")
    if not wanted:
        raise ValueError(f"{path}: holds no video id")
    return list(wanted.values())


def list_folder(folder: VideoFolder, *, clip_from_id: bool = False) -> list[Wanted]:
    """All videos of a folder by their files' names, sorted. Raises `ValueError` where there are none."""
    if not folder.files:
        raise ValueError(f"{folder.path}: no videos in it (files with the extension of a video)")
    names = sorted(folder.files)
    return [_entry({"video_id": name}, place=str(folder.path), clip_from_id=clip_from_id) for name in names]


class VideoFolder:
    """The video files of a folder by their names without extension, read once."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder of videos (--video_dir)")
        self.path = path
        self.files: dict[str, str] = {}
        for name in _names_in(path):
            stem = name.rpartition(".")[0]
            if stem and _rank(name) < _rank(self.files.get(stem, "")):
                self.files[stem] = name

    def find(self, file_id: str) -> Path | None:
        """The file of this name: with a video's extension, or exactly so."""
        name = self.files.get(file_id)
        if name is None and os.sep in file_id:
            return None
        try:
            path = self.path / os.fsdecode((name or file_id).encode("utf-8", "surrogateescape"))
            return path if name or path.is_file() else None
        except (OSError, ValueError):  # no name that a file could have
            return None


def _names_in(folder: Path) -> list[str]:
    """The names of all files of a folder, sorted."""
    try:
        # As bytes, for names are UTF-8 whatever the locale says.
        with os.scandir(os.fsencode(folder)) as entries:
            return sorted(entry.name.decode("utf-8", "surrogateescape") for entry in entries)
    except OSError as error:  # its own text would show the folder's name as bytes
        raise ValueError(f"{folder}: cannot be read: {error.strerror} (--video_dir)") from None


def _rank(name: str) -> float:
    """How much a file's extension is preferred, 0 most; infinite where it is none of a video's."""
    return video_extensions().get(name.rpartition(".")[2].lower(), inf)


def _rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    start = text.lstrip()[:1]
    if start == "[":
        for number, row in enumerate(_parse_json(text, place=str(path)), start=1):
            yield f"entry {number}", row if isinstance(row, dict) else {"video_id": row}
    elif start == "{":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", _parse_json(line, place=f"{path}, line {number}")
    elif "video_id" in (columns := _first_cells(text)):
        yield from _csv_rows(path, text)
    elif path.suffix.lower() == ".csv":
        found = ", ".join(columns)[:100] or "none"
        raise ValueError(f"{path}: a csv must have the column video_id; its first line has: {found}")
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", {"video_id": line.strip()}


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + 1}: no csv: {error}") from None


def _first_cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text.partition("\n")[0]]), [])
    except csv.Error:  # no csv: a cell without end, or with NUL characters
        return []


def _parse_json(text: str, *, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error.msg})") from None


def _entry(row: Any, *, place: str, clip_from_id: bool) -> Wanted:
    video_id = row.get("video_id") if isinstance(row, dict) else None
    if isinstance(video_id, int) and not isinstance(video_id, bool):
        video_id = str(video_id)
    if not isinstance(video_id, str) or not video_id:
        there = f"; it has {', '.join(map(str, row))[:100]}" if isinstance(row, dict) and row else ""
        raise ValueError(f"{place}: no video_id, which names the video's file{there}")
    window = _window(row, place=place)
    match = _CLIP_ID.fullmatch(video_id) if clip_from_id else None
    if match is None:
        return Wanted(video_id, video_id, window)
    return Wanted(video_id, match[1], _window({"start": match[2], "end": match[3]}, place=place))


def _window(row: dict[str, Any], *, place: str) -> Window:
    try:
        start, end = (
            float(row[name]) if row.get(name) not in (None, "") else None for name in ("start", "end")
        )
    except (TypeError, ValueError):
        raise ValueError(f"{place}: start and end must be seconds") from None
    window = Window(start or 0.0, inf if end is None else end)
    if not 0 <= window.start < window.end:
        raise ValueError(f"{place}: start {window.start:g} s and end {window.end:g} s leave nothing between")
    return window
