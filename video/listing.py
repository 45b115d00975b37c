"""Which videos to store: those of a list, or all of a folder; and where their files are."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from common.errors import UserError, file_errors
from common.json_text import parse_json
from video.sampling import Window
from video.video_files import (
    HIDDEN,
    OTHER,
    UNKNOWN,
    describe_left_out,
    kind_left_out,
    rank_of,
    stem_and_extension,
    videos_by_content,
)

# VATEX names a clip by its video and the seconds of its start and end.
_CLIP_ID = re.compile(r"(.+)_(\d{6})_(\d{6})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A video to store: its id, the name of its file without extension, and the part of it to take."""

    video_id: str
    file_id: str
    window: Window = Window()


def read_list(path: Path, *, clip_from_id: bool = False) -> list[Wanted]:
    """The videos of a list: JSON lines, a JSON array, a csv with the column `video_id`, or one id a line.

    Fields `start` and `end` (seconds) select a part. A repeated id is taken once. Raises `UserError` that
    names file and line if a line has no usable id, if an id is repeated with another part, if a csv has no
    such column, or if the list is empty.
    """
    try:
        with file_errors(path):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    wanted: dict[str, Wanted] = {}
    for place, row in _rows(path, text):
        entry = _entry(row, place=f"{path}, {place}", clip_from_id=clip_from_id)
        if wanted.setdefault(entry.video_id, entry) != entry:
            raise UserError(f"{path}, {place}: {entry.video_id!r} is repeated with another start or end")
    if not wanted:
        raise UserError(f"{path}: has no video id")
    return list(wanted.values())


class VideoFolder:
    """The files of a folder by their names without extension. The folder is read once."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder of videos (--video_dir)")
        self.path = path
        self._names: dict[str, list[str]] = {}  # by stem, the preferred file first
        self.left_out: Counter[str] = Counter()  # by extension or reason
        self.same_name: list[str] = []  # videos that are not taken because another one has the same name
        self._skipped: Counter[str] = Counter()
        self._subfolders: dict[str, VideoFolder] = {}
        for name, kind in _entries(path):
            if kind:
                self._skipped[kind] += 1
            else:
                self._names.setdefault(stem_and_extension(name)[0], []).append(name)
        for names in self._names.values():
            names.sort(key=rank_of)

    def find(self, file_id: str) -> Path | None:
        """The file of this name with a video's or an unknown extension, or of exactly this name; else None.

        A name with slashes is looked for in subfolders, never outside of the folder.
        """
        parent, _, stem = file_id.rpartition("/")
        if parent:
            subfolder = self._subfolder(parent)
            return subfolder.find(stem) if subfolder is not None else None
        names = self._names.get(file_id)
        try:
            if names and rank_of(names[0]) < OTHER:
                return self._path(names[0])
            path = self._path(file_id)
            return path if path.is_file() else None
        except (OSError, ValueError):  # a name that no file can have
            return None

    def list_videos(self, *, workers: int = 1, timeout: float = 300.0) -> list[str]:
        """The names of all videos without extension, sorted. Also sets `left_out` and `same_name`.

        `workers` processes open the files whose extension does not decide it.
        """
        unknown = [
            self._path(name)
            for names in self._names.values()
            if rank_of(names[0]) == UNKNOWN
            for name in names
            if rank_of(name) == UNKNOWN
        ]
        by_content = videos_by_content(unknown, workers=workers, timeout=timeout)
        stems, self.same_name, self.left_out = [], [], Counter(self._skipped)
        for stem, names in self._names.items():
            videos = [name for name in names if rank_of(name) < UNKNOWN or self._path(name) in by_content]
            rest = [name for name in names if name not in videos]
            if videos:
                stems.append(stem)
                self.same_name += videos[1:]
            self.left_out.update(map(kind_left_out, rest))
            names[:] = videos + rest
        return sorted(stems)

    def _path(self, name: str) -> Path:
        return self.path / os.fsdecode(name.encode("utf-8", "surrogateescape"))

    def _subfolder(self, name: str) -> VideoFolder | None:
        if any(part in ("", ".", "..") for part in name.split("/")):
            return None
        try:
            if name not in self._subfolders and self._path(name).is_dir():
                self._subfolders[name] = VideoFolder(self._path(name))
        except (OSError, ValueError):  # a name that no folder can have
            return None
        return self._subfolders.get(name)


def list_folder(
    folder: VideoFolder, *, clip_from_id: bool = False, workers: int = 1, timeout: float = 300.0
) -> list[Wanted]:
    """All videos of a folder by name without extension, sorted. Raises `UserError` if there are none."""
    names = folder.list_videos(workers=workers, timeout=timeout)
    if not names:
        left_out = f" (left out: {describe_left_out(folder.left_out)})" if folder.left_out else ""
        raise UserError(f"{folder.path}: no videos in it{left_out}")
    return [_entry({"video_id": name}, place=str(folder.path), clip_from_id=clip_from_id) for name in names]


def _entries(folder: Path) -> list[tuple[str, str]]:
    """(name, "") of the files of a folder, sorted; (name, why) of entries that cannot be a video."""
    # As bytes: names are UTF-8 in every locale.
    with file_errors(folder), os.scandir(os.fsencode(folder)) as entries:
        return sorted((entry.name.decode("utf-8", "surrogateescape"), _why_not(entry)) for entry in entries)


def _why_not(entry: os.DirEntry[bytes]) -> str:
    if entry.name.startswith(b"."):
        return HIDDEN
    if entry.is_dir():
        return "folders"
    return "" if entry.is_file() else "no regular file"  # a broken link, a pipe


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
        names = ", ".join(columns)[:100] or "none"
        raise UserError(f"{path}: a csv must have the column video_id; its first line has: {names}")
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
        raise UserError(f"{path}, line {reader.line_num + 1}: not csv: {error}") from None


def _first_cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text.partition("\n")[0]]), [])
    except csv.Error:  # not csv: an unclosed quote, or NUL characters
        return []


def _parse_json(text: str, *, place: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg})") from None


def _entry(row: Any, *, place: str, clip_from_id: bool) -> Wanted:
    video_id = row.get("video_id") if isinstance(row, dict) else None
    if isinstance(video_id, int) and not isinstance(video_id, bool):
        video_id = str(video_id)
    if not isinstance(video_id, str) or not video_id:
        fields = f"; it has {', '.join(map(str, row))[:100]}" if isinstance(row, dict) and row else ""
        raise UserError(f"{place}: no video_id, which names the video's file{fields}")
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
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{place}: start and end must be seconds") from None
    window = Window(start or 0.0, inf if end is None else end)
    if not 0 <= window.start < window.end:
        raise UserError(f"{place}: start {window.start:g} s and end {window.end:g} s leave nothing between")
    return window
