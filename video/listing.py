"""Which videos to store: those of a list, or all of a folder; and where their files are."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.csv_text import delimiter_of, first_cells, likely_delimiter, read_rows
from common.errors import UserError, file_errors
from common.json_text import parse_json
from common.names import unicode_forms
from common.text_encodings import not_utf8
from video.clip_ids import parse_clip_id
from video.clip_table import ID, ClipColumns, NoVideoError, clip_columns
from video.file_names import (
    HIDDEN,
    OTHER,
    UNKNOWN,
    kind_left_out,
    rank_of,
    stem_and_extension,
    without_extension,
)
from video.sampling import Window
from video.video_files import describe_left_out, videos_by_content


@dataclass(frozen=True, slots=True)
class Wanted:
    """A video to store: its id, the name of its file, usually without extension, and the part of it to take.

    `problem`: why it cannot be stored, if its line in the list shows that already.
    """

    video_id: str
    file_id: str
    window: Window = Window()
    problem: str = ""


def read_list(path: Path, *, clip_from_id: bool = False) -> list[Wanted]:
    """The videos of a list: JSON lines, a JSON array, a table, or one id a line.

    A table has commas, tabs or semicolons between its cells, and a column `video_id` or, in a file that ends
    in .csv or .tsv, one that names the video (`video/clip_table.py`). Fields `start` and `end` (seconds)
    select a part. A repeated id is taken once. An entry whose id is empty or no text gets a `problem`; the
    others stay usable. Raises `UserError` that names file and line if the file is none of these forms, if a
    line has no such field, if an id is repeated with another part, or if the list has no id.
    """
    try:
        with file_errors(path):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    wanted: dict[str, Wanted] = {}
    unusable: list[Wanted] = []
    for place, row in _rows(path, text):
        entry = _entry(row, place=f"{path}, {place}", clip_from_id=clip_from_id)
        if entry.problem:
            unusable.append(entry)
        elif wanted.setdefault(entry.video_id, entry) != entry:
            raise UserError(f"{path}, {place}: {_repeated(entry, wanted[entry.video_id])}")
    if not wanted:
        raise UserError(f"{path}: has no video id" + (f" ({unusable[0].problem})" if unusable else ""))
    return [*wanted.values(), *unusable]


def _repeated(entry: Wanted, before: Wanted) -> str:
    if entry.window == before.window:
        return f"the id {entry.video_id!r} is that of two files, {before.file_id} and {entry.file_id}"
    return (
        f"{entry.video_id!r} is repeated with another start or end"
        f" (in a column 'video' instead of '{ID}', each part gets an id of its own)"
    )


class VideoFolder:
    """The files of a folder by their names without extension. The folder is read once."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder of videos (--video_dir)")
        self.path = path
        self._names: dict[str, list[str]] = {}  # by stem, the preferred file first
        self.left_out: Counter[str] = Counter()  # by extension or reason
        self.same_name: list[str] = []  # videos that are not taken because another one has the same name
        self.other_form: list[str] = []  # ids whose files have the name in another Unicode form
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

        If there is none of exactly this name, one that differs only in the Unicode form (NFC, NFD) is taken.
        A name with slashes is looked for in subfolders, never outside of the folder.
        """
        parent, _, stem = file_id.rpartition("/")
        if parent:
            subfolder = self._subfolder(parent)
            return subfolder.find(stem) if subfolder is not None else None
        name = next((name for form in unicode_forms(file_id) for name in self._videos_named(form)[:1]), None)
        if name is not None:
            return self._path(name)
        try:
            paths = [self._path(form) for form in unicode_forms(file_id)]
            return next((path for path in paths if path.is_file()), None)
        except (OSError, ValueError):  # a name that no file can have
            return None

    def file_of(self, entry: Wanted) -> tuple[Path | None, bool]:
        """The file of a video, and whether it is named like the part and not like the whole video."""
        path = self.find(entry.file_id) or self.find(without_extension(entry.file_id))
        if path is None and entry.file_id != entry.video_id:
            return self.find(entry.video_id), True
        return path, False

    def left_out_with_name(self, file_id: str) -> list[str]:
        """The files of this name that are no videos by their extension, such as "clip.txt" for "clip"."""
        parent, _, stem = file_id.rpartition("/")
        folder = self._subfolder(parent) if parent else self
        if folder is None:
            return []
        return [
            name
            for form in unicode_forms(stem)
            for name in folder._names.get(form, ())
            if rank_of(name) == OTHER
        ]

    def check_names(self, wanted: Iterable[Wanted]) -> None:
        """Set `same_name` and `other_form` for the videos of a list."""
        same_name: dict[str, None] = {}
        other_form = []
        for entry in wanted:
            if len(self._videos_named(entry.file_id)) == 1:
                continue  # the usual case
            path, own = self.file_of(entry)
            if path is None:
                continue
            name = entry.video_id if own else entry.file_id
            folder = self._subfolder(name.rpartition("/")[0]) if "/" in name else self
            found = stem_and_extension(_name_of(path))[0]
            videos = folder._videos_named(found) if folder is not None else []
            same_name.update(dict.fromkeys(other for other in videos[1:] if rank_of(other) < UNKNOWN))
            own_name = name.rpartition("/")[2]
            if not {own_name, without_extension(own_name)} & {found, _name_of(path)}:
                other_form.append(entry.video_id)
        self.same_name, self.other_form = list(same_name), other_form

    def _videos_named(self, stem: str) -> list[str]:
        """The files with this name and a video's or an unknown extension, the preferred one first."""
        return [name for name in self._names.get(stem, ()) if rank_of(name) < OTHER]

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
            if name not in self._subfolders:
                path = next((path for path in map(self._path, unicode_forms(name)) if path.is_dir()), None)
                if path is not None:
                    self._subfolders[name] = VideoFolder(path)
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


def _name_of(path: Path) -> str:
    return os.fsencode(path.name).decode("utf-8", "surrogateescape")


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
    elif delimiter_of(first := _first_line(text), ID) is not None:
        yield from _table_rows(path, text, ID)
    elif path.suffix.lower() in (".csv", ".tsv"):
        header = first_cells(first, likely_delimiter(first))
        columns = clip_columns(header)
        if columns is None:
            names = ", ".join(header)[:100] or "none"
            raise UserError(f"{path}: must have a column {ID} or video; its first line has: {names}")
        yield from _table_rows(path, text, columns.video)
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if "\t" in line.strip():
                raise UserError(
                    f"{path}, line {number}: has a tab; a list has one id a line,"
                    f" or a header with the column {ID}"
                )
            if line.strip():
                yield f"line {number}", {ID: line.strip()}


def _first_line(text: str) -> str:
    return text.lstrip("\r\n").partition("\n")[0].rstrip("\r")


def _table_rows(path: Path, text: str, column: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = read_rows(io.StringIO(text, newline=""), str(path), column=column)
    _, header = next(rows)
    for place, cells in rows:
        row: dict[str, Any] = dict(zip(header, cells, strict=True))
        if "\n" in row[column]:
            raise UserError(f"{path}, {place}: a {column} with a line break; is a quote not closed there?")
        yield place, row


def _parse_json(text: str, *, place: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg})") from None


def _entry(row: Any, *, place: str, clip_from_id: bool) -> Wanted:
    columns = _columns(row, place=place)
    try:
        clip = columns.clip_of(row, place=place)
    except NoVideoError as error:
        return Wanted("", "", problem=str(error))
    window = Window(clip.start, clip.end)
    part = parse_clip_id(clip.video_id) if clip_from_id and (columns.is_id or window.is_whole_video) else None
    if part is None:
        return Wanted(clip.video_id, clip.file, window)
    if not part.start < part.end:
        raise UserError(f"{place}: start {part.start:g} s and end {part.end:g} s leave nothing between")
    return Wanted(clip.video_id, part.source, Window(part.start, part.end))


def _columns(row: Any, *, place: str) -> ClipColumns:
    columns = clip_columns(row) if isinstance(row, dict) else None
    if columns is None:
        fields = f"; it has {', '.join(map(str, row))[:100]}" if isinstance(row, dict) and row else ""
        raise UserError(f"{place}: no {ID} or video, which names the video's file{fields}")
    return columns
