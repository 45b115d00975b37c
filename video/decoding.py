"""Frames of a video file by PyAV (FFmpeg), exact to the frame.

Legend: pts, a frame's presentation time in units of the stream's time base; n frames wanted.

There are two ways with the same result. *In order*: decode and count all frames, so that no header is
trusted. *By index*: if each packet is one frame (this depends on container and codec), decode only
from the key frames to the wanted frames, and in H.264 skip frames that no other frame refers to. If the
output differs from what the packets promised (a missing frame, an error, another time), the video is
decoded in order instead. So is interlaced video: deinterlacing needs the frames beside the wanted ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av import library_versions
from av.container import InputContainer

from video.deinterlacing import InterlacedFrame, deinterlace, with_neighbours
from video.frame_times import FrameClock, Span, duration_of, promised_duration, seconds_before
from video.packet_index import PacketTable, move_to_cheap, read_packets
from video.pictures import Encode, Encoded, display_matrix, rotation_of
from video.sampling import (
    EncodeFrame,
    Frame,
    Numbers,
    Range,
    Sample,
    TimedFrames,
    VideoError,
    Window,
    chosen_of,
    positions_within,
    sample_in_order,
)
from video.streams import codec_of, describe_error, open_video, streams_without_covers
from video.tone_mapping import HDR, UNSPECIFIED

# Decoding by index pays for its seeks if at least this share of the frames is not decoded.
_WORTH_SEEKING = 0.3
# Headers often promise a frame or two too many.
_SPARE_FRAMES = 2.5


class UnexpectedFrames(Exception):
    """The decoded frames are not those that the packets promised."""


def sample_with_pyav(
    path: Path,
    *,
    wanted: int,
    encode: Encode,
    window: Window,
    slack: float = 0.0,
    own_file: bool = False,
    only: Numbers = None,
) -> Sample:
    """`wanted` frames of the video. `slack`: see `move_to_cheap`. Raises `VideoError` if nothing decodes.

    `own_file`: the file may hold the part of `window` alone, see `Window.within`. `only`: the numbers of the
    frames whose pictures to make. All wanted frames are decoded in any case: whether they come out as the
    packets promise decides which frames are taken.
    """
    container, stream = open_video(path)
    with container:
        table = read_packets(container, stream)
        if own_file:
            window = window.within(_length(container, stream, table))
        guess = _range_within(table, float(stream.time_base or 0), window)
        upright = Upright(encode, stream)
        span: Span | None
        try:
            sample, span = _sample_by_index(
                container,
                stream,
                table,
                wanted=wanted,
                encode=upright,
                positions=guess,
                slack=slack,
                only=only,
            )
        except (UnexpectedFrames, av.FFmpegError):
            upright = Upright(encode, stream)
            frames = FramesInOrder(path)
            sample = _sample_all(frames, wanted=wanted, encode=upright, window=window, guess=guess, only=only)
            span = frames.span(table)
        sample.window = window
        upright.describe(sample)
        _describe(sample, container, stream)
        _set_times(sample, span, container, stream)
        sample.decoded_share = _decoded_share(sample, span, container, stream, table)
    return sample


def _length(container: InputContainer, stream: av.VideoStream, table: PacketTable) -> float | None:
    """The seconds of the video: by its packets, else by its header."""
    if table.times and table.end is not None and stream.time_base:
        return float((table.end - table.times[0]) * stream.time_base)
    return duration_of(container, stream)


def _describe(sample: Sample, container: InputContainer, stream: av.VideoStream) -> None:
    version = ".".join(map(str, library_versions["libavcodec"]))
    sample.decoder = f"PyAV {av.__version__}, libavcodec {version}"
    sample.codec = codec_of(stream)
    sample.fps = round(float(stream.average_rate), 4) if stream.average_rate else None
    duration = duration_of(container, stream)
    sample.duration = None if duration is None else round(duration, 3)
    if len(streams_without_covers(container)) > 1:
        sample.stream = stream.index


def _set_times(sample: Sample, span: Span | None, container: InputContainer, stream: av.VideoStream) -> None:
    """From seconds after the first frame to seconds after the start of the file; the end of the frames."""
    if span is None or not stream.time_base:
        return
    before = seconds_before(container, float(span.first * stream.time_base))
    sample.times = [None if time is None else round(before + time, 3) for time in sample.times]
    if span.end is not None:
        sample.end = round(before + float((span.end - span.first) * stream.time_base), 3)


def _decoded_share(
    sample: Sample,
    span: Span | None,
    container: InputContainer,
    stream: av.VideoStream,
    table: PacketTable,
) -> float:
    """The share of the frames that decode: of the packets, and of the seconds that the header promises."""
    shares = [1.0]
    window = sample.window
    if window.is_whole_video:
        packets = table.packets if table.one_frame_each else sample.frames + sample.damaged
        shares.append(sample.frames / max(packets, 1))
    if span is not None and span.end is not None and stream.time_base:
        # A promised duration may be counted from the start of the file or from the first frame.
        length = float((span.end - span.first) * stream.time_base)
        until = max(length, sample.end or 0.0)
        promised = min(promised_duration(container, stream, until=until) or 0.0, window.end) - window.start
        period = length / max(sample.frames if window.is_whole_video else table.packets, 1)
        if promised - (until - window.start) > _SPARE_FRAMES * period:
            shares.append((until - window.start) / promised)
    return min(shares)


class Upright:
    """Encodes frames of a stream and remembers what was done to them."""

    def __init__(self, encode: Encode, stream: av.VideoStream) -> None:
        self._encode = encode
        self._tagged = int(stream.codec_context.color_trc)
        self._transfer = UNSPECIFIED
        self._rotation: int | None = None
        self._deinterlaced = False

    def __call__(self, frame: Frame) -> Encoded:
        if isinstance(frame, InterlacedFrame):
            whole = deinterlace(frame)
            self._deinterlaced |= whole is not frame.frame
            frame = whole
        assert not isinstance(frame, np.ndarray), "PyAV gives frames with side data"
        if self._rotation is None:
            self._rotation = rotation_of(display_matrix(frame))
        transfer = int(getattr(frame, "color_trc", self._tagged))  # older PyAV has it only of the stream
        if transfer in HDR:
            self._transfer = transfer
        return self._encode(frame, transfer=transfer)

    def describe(self, sample: Sample) -> None:
        """Write into `sample` what was done."""
        sample.rotation, sample.deinterlaced = self._rotation or 0, self._deinterlaced
        sample.hdr = HDR.get(self._transfer, "")


# In order


def _sample_all(frames: FramesInOrder, **options: Any) -> Sample:
    try:
        sample = sample_in_order(frames, **options)
    except VideoError as error:
        raise frames.explain(error) from None
    sample.damaged = frames.damaged
    return sample


class FramesInOrder:
    """All frames of a file. Packets that do not decode are skipped and counted in `damaged`.

    `start`: the pts of a key frame to start at, and of the first frame, from which the seconds count. None:
    the file's first frame.
    """

    def __init__(self, path: Path, start: tuple[int, int] | None = None) -> None:
        self._path = path
        self._start = start
        self.damaged = 0
        self._undecodable = ""
        self._first: int | None = None
        self._last: int | None = None
        self._period = 0
        self._ended = False

    def __call__(self) -> TimedFrames:
        self.damaged, self._ended = 0, False
        self._first = self._last = None
        container, stream = open_video(self._path)
        clock = FrameClock(stream)
        self._period = clock.period
        if self._start is not None:
            container.seek(self._start[0], stream=stream)
            self._first = self._start[1]
        with container:
            for frame in with_neighbours(self._decode(container, stream)):
                pts = clock.pts_of(frame.frame if isinstance(frame, InterlacedFrame) else frame)
                self._first = pts if self._first is None else self._first
                self._last = pts
                if pts is None or self._first is None or stream.time_base is None:
                    yield None, frame
                else:
                    yield float((pts - self._first) * stream.time_base), frame
        self._ended = True

    def span(self, table: PacketTable) -> Span | None:
        """The pts of the last pass; None if the frames carry no times."""
        if self._first is None or self._last is None:
            return None
        if not self._ended:
            return Span(self._first, None)
        if table.end is not None and self._last >= table.times[-1]:
            return Span(self._first, table.end)
        return Span(self._first, self._last + self._period)

    def _decode(self, container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
            except av.FFmpegError:  # the file is cut off here
                self.damaged += 1
                return
            try:
                yield from stream.codec_context.decode(packet)
            except av.FFmpegError as error:
                self.damaged += 1
                if isinstance(error, NotImplementedError):
                    self._undecodable = f"codec {codec_of(stream)}: {describe_error(error)}"

    def explain(self, error: VideoError) -> VideoError:
        """`error` with a more exact reason, if reading the file has shown one."""
        if error.reason == "no frames" and self._undecodable:
            return VideoError("codec not decodable", self._undecodable)
        if error.reason == "no frames" and self.damaged:
            return VideoError("no frames", f"{error.message}; {self.damaged} packets are damaged")
        return error


# By index


def _range_within(table: PacketTable, time_base: float, window: Window) -> Range | None:
    """The positions inside the window according to the packets; None if the packets do not show it."""
    if len(table.times) != table.packets or not table.times:
        return None
    if window.is_whole_video:
        return 0, table.packets
    seconds = [(pts - table.times[0]) * time_base for pts in table.times]
    return sum(time < window.start for time in seconds), sum(time < window.end for time in seconds)


def _sample_by_index(
    container: InputContainer,
    stream: av.VideoStream,
    table: PacketTable,
    *,
    wanted: int,
    encode: EncodeFrame,
    positions: Range | None,
    slack: float,
    only: Numbers,
) -> tuple[Sample, Span]:
    if not table.trusted or positions is None or positions[0] >= positions[1]:
        raise UnexpectedFrames
    even = positions_within(positions, wanted)
    indices = move_to_cheap(even, table, slack=slack)
    groups = group_by_keyframe(table, {table.times[index] for index in indices})
    needed = sum(table.count_between(start, max(group)) for start, group in groups.items())
    if stream.codec_context.name != "h264" and needed > (1 - _WORTH_SEEKING) * table.packets:
        raise UnexpectedFrames
    shown = [table.times[index] for index in chosen_of(indices, only)]
    pictures: dict[int, Encoded] = {}
    for start, group in groups.items():
        for frame in decode_group(container, stream, start=start, group=group):
            if (pts := cast(int, frame.pts)) in shown:
                pictures[pts] = encode(frame)
    chosen = [pictures[pts] for pts in shown]
    sample = Sample(indices, chosen, frames=positions[1] - positions[0], by_index=True)
    sample.moved = max(abs(taken - planned) for taken, planned in zip(indices, even, strict=True))
    first, unit = table.times[0], cast(Fraction, stream.time_base)
    sample.times = [float((table.times[index] - first) * unit) for index in indices]
    return sample, Span(first, table.end)


def group_by_keyframe(table: PacketTable, wanted: set[int]) -> dict[int, set[int]]:
    """The wanted pts by the pts of the key frame from which they are decoded, in order."""
    groups: dict[int, set[int]] = {}
    for pts in sorted(wanted):
        start = table.start_of(pts)
        if start is None:
            raise UnexpectedFrames
        groups.setdefault(start, set()).add(pts)
    return groups


def decode_group(
    container: InputContainer, stream: av.VideoStream, *, start: int, group: set[int]
) -> Iterator[av.VideoFrame]:
    """The frames with the pts of `group`, decoded from the key frame at `start` on.

    In H.264, frames that are not wanted and that no other frame refers to (NONREF) are skipped; this does not
    change the other frames. Raises `UnexpectedFrames` if a frame of the group is not decoded.
    """
    context = stream.codec_context
    skippable = context.name == "h264"
    unread, unseen = set(group), set(group)
    container.seek(start, stream=stream)
    for number, packet in enumerate(container.demux(stream)):
        if not number and packet.pts != start:
            raise UnexpectedFrames
        if skippable:
            context.skip_frame = "DEFAULT" if packet.pts in unread else "NONREF"
        unread.discard(packet.pts)
        frames = context.decode(packet)
        if not unread:
            frames = [*frames, *context.decode(None)] if packet.size else frames
        for frame in frames:
            if frame.pts in unseen:
                if frame.is_corrupt or frame.interlaced_frame:  # deinterlacing needs the frames beside it
                    raise UnexpectedFrames
                unseen.discard(frame.pts)
                yield frame
        if not unread:
            break
    if unseen:
        raise UnexpectedFrames
