"""Which file, and which part of it, each video of a split is: found once, kept in little memory."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataloaders.examples import PackedStrings
from video.clip_ids import parse_clip_id
from video.listing import VideoFolder, Wanted
from video.sampling import Window


@dataclass(frozen=True)
class VideoFile:
    """The file of a video, relative to the folder, and the part of it to take.

    `own_file`: the file is named like the part, so it may hold the part alone.
    """

    name: str
    window: Window = Window()
    own_file: bool = False


class VideoFinder:
    """Looks for videos in a folder by the rules of tools/frame2lmdb.py. The folder is read once.

    With `clip_from_id` an id such as VIDEO_000010_000020 is seconds 10 to 20 of VIDEO. Without it, it is
    the file of that name; only if there is none, it is that part of VIDEO. `first_seconds`: no more of a
    video is taken.
    """

    def __init__(self, path: Path, *, clip_from_id: bool = False, first_seconds: float | None = None) -> None:
        self._folder = VideoFolder(path)
        self._start = os.path.join(path, "")
        self._clip_from_id = clip_from_id
        self._first_seconds = first_seconds

    def find(self, video_id: str) -> VideoFile | None:
        """The file of a video; None if the folder has none."""
        clip = parse_clip_id(video_id)
        if clip is None or clip.start >= clip.end:
            return self._file(Wanted(video_id, video_id))
        part = Wanted(video_id, clip.source, Window(clip.start, clip.end))
        if self._clip_from_id:
            return self._file(part)
        return self._file(Wanted(video_id, video_id)) or self._file(part)

    def _file(self, wanted: Wanted) -> VideoFile | None:
        path, own_file = self._folder.file_of(wanted)
        if path is None:
            return None
        window = wanted.window
        if self._first_seconds is not None:
            window = window.cut_to(self._first_seconds)
        return VideoFile(os.fspath(path).removeprefix(self._start), window, own_file)


class FileTable:
    """The files of some videos by id, in packed arrays: worker processes share them (see `PackedStrings`)."""

    def __init__(self, files: dict[str, VideoFile]) -> None:
        ids = sorted(files)
        chosen = [files[video_id] for video_id in ids]
        self._ids = PackedStrings.from_iterable(ids)
        # Names of files need not be UTF-8: each byte becomes a character.
        self._names = PackedStrings.from_iterable(os.fsencode(file.name).decode("latin-1") for file in chosen)
        self._windows: NDArray[np.float64] = np.array(
            [(file.window.start, file.window.end) for file in chosen], dtype=np.float64
        ).reshape(-1, 2)
        self._own_file = np.array([file.own_file for file in chosen], dtype=bool)

    @classmethod
    def of(cls, video_ids: Iterable[str], finder: VideoFinder) -> FileTable:
        """The files of those of `video_ids` that have one."""
        found = ((video_id, finder.find(video_id)) for video_id in dict.fromkeys(video_ids))
        return cls({video_id: file for video_id, file in found if file is not None})

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, video_id: str) -> VideoFile | None:
        """The file of a video; None if the table has none."""
        place = bisect_left(self._ids, video_id)
        if place == len(self) or self._ids[place] != video_id:
            return None
        start, end = map(float, self._windows[place])
        name = os.fsdecode(self._names[place].encode("latin-1"))
        window = Window() if (start, end) == (0.0, inf) else Window(start, end)
        return VideoFile(name, window, bool(self._own_file[place]))
