"""Videos as the doctor's frame source: every video is decoded once, and what was found out is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataloaders.video_frames.source import VideoFrames
from video.sample import Settings

_TIMEOUT = 60.0  # seconds, that of training


class _LastVideo:
    """In place of a cache on disk: the frames of the last video, and the records of all."""

    path = Path()

    def __init__(self) -> None:
        self._video_id = ""
        self._jpegs: Sequence[bytes] = ()
        self._records: dict[str, dict[str, Any]] = {}

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._records

    def record(self, video_id: str) -> dict[str, Any] | None:
        return self._records.get(video_id)

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes] | None:
        return [self._jpegs[index] for index in indices] if video_id == self._video_id else None

    def put(self, video_id: str, jpegs: Sequence[bytes], *, record: dict[str, Any]) -> None:
        self._video_id, self._jpegs, self._records[video_id] = video_id, jpegs, record


def videos_to_check(path: Path, *, clip_from_id: bool, first_seconds: float | None) -> VideoFrames:
    """The videos of a folder, with the settings that training has. Raises `UserError` if there is none."""
    return VideoFrames(
        path,
        Settings(),
        timeout=_TIMEOUT,
        clip_from_id=clip_from_id,
        first_seconds=first_seconds,
        cache=_LastVideo(),
    )
