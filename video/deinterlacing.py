"""Whole pictures from interlaced frames, by FFmpeg's filter bwdif.

An interlaced frame holds the lines of two moments; where something moves, its edges look like combs. Only
frames that the decoder marks as interlaced are filtered, as in players. The result is that of
`ffmpeg -vf bwdif=mode=send_frame:deint=interlaced`: one picture a frame, at the first of the two moments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.filter import Graph

_OPTIONS = "mode=send_frame:parity=auto:deint=interlaced"
_TIME_BASE = Fraction(1, 25)


@dataclass(frozen=True)
class InterlacedFrame:
    """A frame that is marked as interlaced, with its neighbours in time; None where there is none."""

    before: av.VideoFrame | None
    frame: av.VideoFrame
    after: av.VideoFrame | None


def with_neighbours(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame | InterlacedFrame]:
    """The same frames; those that are marked as interlaced with their neighbours."""
    before: av.VideoFrame | None = None
    frame: av.VideoFrame | None = None
    for after in frames:
        if frame is not None:
            yield _joined(before, frame, after)
        before, frame = frame, after
    if frame is not None:
        yield _joined(before, frame, None)


def _joined(
    before: av.VideoFrame | None, frame: av.VideoFrame, after: av.VideoFrame | None
) -> av.VideoFrame | InterlacedFrame:
    return InterlacedFrame(before, frame, after) if frame.interlaced_frame else frame


def deinterlace(fields: InterlacedFrame) -> av.VideoFrame:
    """The frame as one whole picture, with the side data and colour tags of the frame.

    The filter looks only at the two neighbours, so the result is that of filtering the whole video. A frame
    that is too small for the filter is returned as it is.
    """
    frame = fields.frame
    near = [other for other in (fields.before, frame, fields.after) if other is not None]
    near = [other for other in near if _kind(other) == _kind(frame)]
    try:
        graph = _graph(frame)
    except av.FFmpegError:  # fewer than three lines or columns, also of the chroma planes
        return frame
    for number, other in enumerate(near):
        _push(graph, other, time=number)
    graph.push(None)
    pictures = [cast(av.VideoFrame, graph.pull()) for _ in range(near.index(frame) + 1)]
    return pictures[-1]


def _kind(frame: av.VideoFrame) -> tuple[int, int, str]:
    """What must not change within a filter graph."""
    return frame.width, frame.height, frame.format.name


def _graph(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    if hasattr(graph, "threads"):  # older PyAV has no such setting
        graph.threads = 1  # the pool's processes share the cores
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE
    )
    steps = [source, graph.add("bwdif", _OPTIONS), graph.add("buffersink")]
    for step, following in zip(steps, steps[1:], strict=False):
        step.link_to(following)
    graph.configure()
    return graph


def _push(graph: Graph, frame: av.VideoFrame, *, time: int) -> None:
    """Push a frame at a time that rises, whatever the file says; the frame keeps its own."""
    pts, time_base = frame.pts, frame.time_base
    frame.pts, frame.time_base = time, _TIME_BASE
    try:
        graph.push(frame)
    finally:
        frame.pts = pts
        if time_base is not None:
            frame.time_base = time_base
