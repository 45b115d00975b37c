"""Ids that name a part of a video, as VATEX's: VIDEO_SSSSSS_EEEEEE, the seconds of its start and end."""

from __future__ import annotations

import re
from typing import NamedTuple

_CLIP_ID = re.compile(r"(.+)_(\d{6})_(\d{6})", re.DOTALL)
_MARGIN = 2.0  # seconds


class Part(NamedTuple):
    """Seconds `start` to `end` of the video `source`."""

    source: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def overlaps(self, other: Part) -> bool:
        return self.source == other.source and min(self.end, other.end) > max(self.start, other.start)


def parse_clip_id(video_id: str) -> Part | None:
    """The part that an id names; None for ids of another form."""
    match = _CLIP_ID.fullmatch(video_id)
    return Part(match[1], float(match[2]), float(match[3])) if match else None


def is_about(length: float, named: float) -> bool:
    """Whether a file of `length` seconds can be the part of `named` seconds that its name says.

    Tools that cut at key frames take some seconds more; the end of a video may come some seconds early.
    """
    return 0.5 * named - _MARGIN <= length <= 1.5 * named + _MARGIN


def holds_part_alone(length: float, *, start: float, end: float) -> bool | None:
    """Whether a file that is named like a part, of `length` seconds, is the part; False: the whole video.

    A file that is hardly longer than the part is the part; a longer one that reaches to the end of the part
    is the whole video. None: it can be neither.
    """
    if length <= end - start + _MARGIN:
        return True
    if length >= end - _MARGIN:
        return False
    return True if is_about(length, end - start) else None
