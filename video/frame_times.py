"""Times of frames, and how much of a file decodes.

Legend: pts, a frame's presentation time in units of the stream's time base.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
from av.container import InputContainer

_LOWEST = -(1 << 60)  # FFmpeg marks an unknown time by a number below this
_ENDS_EARLY = 0.95  # of the duration in the header


class FrameClock:
    """The pts of decoded frames, one after another, where the frames' own may be wrong or absent.

    As FFmpeg's `best_effort_timestamp`: a frame's pts; its dts where pts do not rise or are absent, as in
    some AVI files. A frame without both comes one frame after the frame before it. None if nothing is known.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        rate, unit = stream.average_rate, stream.time_base
        self.period = round(1 / (rate * unit)) if rate and unit else 0  # of a frame
        self._last_pts = self._last_dts = _LOWEST
        self._wrong_pts = self._wrong_dts = 0
        self._last: int | None = None

    def pts_of(self, frame: av.VideoFrame) -> int | None:
        """The pts of the next frame."""
        best = self._best(frame.pts, frame.dts)
        if best is None and self._last is not None and self.period:
            best = self._last + self.period
        self._last = best
        return best

    def _best(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._wrong_dts += dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._wrong_pts += pts <= self._last_pts
            self._last_pts = pts
        if pts is None or (dts is not None and self._wrong_pts > self._wrong_dts):
            return dts
        return pts


@dataclass(frozen=True)
class Span:
    """The pts of the first frame of a file and of the end of the last one that decodes (None: not read)."""

    first: int
    end: int | None


def seconds_before(container: InputContainer, first: float) -> float:
    """The seconds from the start of the file, as players count, to its first frame, at `first` on its clock.

    The start is that of the earliest stream; but sound that begins below zero moves no picture.
    """
    earliest = seconds_of_start(container, unknown=first)
    if first >= 0:
        earliest = max(earliest, 0.0)
    return max(0.0, first - earliest)


def seconds_of_start(container: InputContainer, *, unknown: float = 0.0) -> float:
    """The seconds at which the earliest stream starts, on the file's clock."""
    start = container.start_time
    return unknown if start is None or start < _LOWEST else start / av.time_base


def duration_of(container: InputContainer, stream: av.VideoStream) -> float | None:
    """The seconds of the video stream as the header says, or of the whole file."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def promised_duration(container: InputContainer, stream: av.VideoStream, *, until: float) -> float | None:
    """The seconds that the header promises for the video stream; None if it says nothing about it.

    `until`: the second at which the last frame that decodes ends. The duration of a whole file is a promise
    for its pictures if no sound goes on to the end without them.
    """
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # FFmpeg corrects the duration of a cut-off AVI
    if stream.duration is not None:
        return duration_of(container, stream)
    tagged = _seconds(stream.metadata.get("DURATION", ""))  # of Matroska
    if tagged is not None:
        return tagged
    whole = duration_of(container, stream)
    if whole is not None:
        whole -= max(0.0, seconds_of_start(container))  # FLV counts to the last time on its clock
    if whole is None or len(container.streams) == 1:
        return whole
    early = whole * _ENDS_EARLY
    return whole if until < early and _end_of_all(container) < early else None


def _end_of_all(container: InputContainer) -> float:
    """The second at which the last packet of all streams ends; reads the whole file."""
    start = seconds_of_start(container)
    end = 0.0
    try:
        container.seek(0)
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start)
    except av.FFmpegError:  # the file is cut off here
        pass
    return end


def _seconds(text: str) -> float | None:
    """The seconds of "00:01:02.500000000"; None for other texts."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds
