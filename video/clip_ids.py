"""Ids that name a part of a video, as VATEX's: VIDEO_SSSSSS_EEEEEE, the seconds of its start and end.

Seconds that are not whole have three decimals, and "end" is the end of the video: VIDEO_000002.500_end.
"""

from __future__ import annotations

import re
from math import inf
from typing import NamedTuple

_CLIP_ID = re.compile(r"(.+)_(\d{6}(?:\.\d{3})?)_(\d{6}(?:\.\d{3})?|end)", re.DOTALL)
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


def clip_id(video: str, start: float | None = None, end: float | None = None) -> str:
    """The id of seconds `start` to `end` of a video: `video` itself if that is all of it.

    `start` None is 0; `end` None or infinity is the end of the video, which the id names "end". Times count
    to the millisecond.
    """
    start, end = start or 0.0, inf if end is None else end
    if start <= 0 and end == inf:
        return video
    return f"{video}_{_written(start)}_{'end' if end == inf else _written(end)}"


def _written(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    if milliseconds % 1000 == 0:
        return f"{milliseconds // 1000:06d}"
    return f"{milliseconds / 1000:010.3f}"


def parse_clip_id(video_id: str) -> Part | None:
    """The part that an id names; None for ids of another form."""
    match = _CLIP_ID.fullmatch(video_id)
    if match is None:
        return None
    return Part(match[1], float(match[2]), inf if match[3] == "end" else float(match[3]))


def is_about(length: float, named: float) -> bool:
    """Whether a file of `length` seconds can be the part of `named` seconds that its name says.

    Tools that cut at key frames take some seconds more; the end of a video may come some seconds early.
    """
    return 0.5 * named - _MARGIN <= length <= 1.5 * named + _MARGIN


def ends_after(end: float, length: float) -> bool:
    """Whether a part up to `end` is not of a video of `length` seconds; headers may be some seconds off."""
    return end > length + _MARGIN


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
