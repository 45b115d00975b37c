"""Whether a cache holds the videos of a folder: the same files, and the same parts of them."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataloaders.video_frames.file_table import VideoFile
from video.sampling import Window


def check_cached(
    video_id: str, record: dict[str, Any], file: VideoFile, *, folder: Path, cache: Path
) -> None:
    """Raise `UserError` if the cached frames of a video, with this `record`, are not those of `file`."""
    problem = _other_file(record, folder / file.name) or _other_part(record, file)
    if problem:
        raise UserError(f"--frame_cache {cache}: video {video_id!r} {problem}; give another folder")


def _other_file(record: dict[str, Any], path: Path) -> str:
    name, size = record.get("file"), record.get("file_bytes")
    if size is None or not path.is_file():
        return ""
    if (name, size) == (os.fsencode(path.name).decode("utf-8", "replace"), path.stat().st_size):
        return ""
    return f"was made from another file ({name}, {size} bytes) than {path}"


def _other_part(record: dict[str, Any], file: VideoFile) -> str:
    start, end = record.get("start"), record.get("end")
    stored = Window(start or 0.0, inf if end is None else end)
    # A file that is named like the part may have been the part alone.
    if stored == file.window or (file.own_file and stored.is_whole_video):
        return ""
    return f"has {stored}, and {file.window} are wanted"
