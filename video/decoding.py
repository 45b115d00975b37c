"""Frames of a video file by PyAV (FFmpeg), exact to the frame.

Legend: pts, a frame's presentation time in units of the stream's time base; n frames wanted.

There are two ways with the same result. *In order*: decode and count all frames, so that no header is
trusted. *By index*: if each packet is one frame (this depends on container and codec), decode only
from the key frames to the wanted frames, and in H.264 skip frames that no other frame refers to. If the
output differs from what the packets promised (a missing frame, an error, another time), the video is
decoded in order instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import av
import numpy as np
from av import library_versions
from av.container import InputContainer

from video.packet_index import PacketTable, move_to_cheap, read_packets
from video.pictures import Encoded, Picture, display_matrix, rotation_of
from video.sampling import (
    Encode,
    Range,
    Sample,
    TimedFrames,
    VideoError,
    Window,
    positions_within,
    sample_in_order,
)

_ATTACHED_PICTURE = 0x400  # FFmpeg's disposition bit of cover pictures
# Codecs by the names of their decoders, for versions of PyAV without `canonical_name`.
_CODECS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
# Decoding by index pays for its seeks if at least this share of the frames is not decoded.
_WORTH_SEEKING = 0.3
# FFmpeg's readers of pictures and text art, which give a video stream. Also all "..._pipe", as "png_pipe".
_PICTURE_FORMATS = frozenset({"image2", "tty", "adf", "bin", "idf", "xbin"})
# Detect the format from so many bytes. FFmpeg's default of 1 MB takes ten times as long if there is no video.
_QUICK_LOOK = {"formatprobesize": "16384"}


class _UnexpectedFrames(Exception):
    """The decoded frames are not those that the packets promised."""


def sample_with_pyav(
    path: Path, *, wanted: int, encode: Encode, window: Window, slack: float = 0.0
) -> Sample:
    """`wanted` frames of the video. `slack`: see `move_to_cheap`. Raises `VideoError` if nothing decodes."""
    container, stream = open_video(path)
    with container:
        table = read_packets(container, stream)
        guess = _range_within(table, float(stream.time_base or 0), window)
        try:
            sample = _sample_by_index(
                container, stream, table, wanted=wanted, encode=encode, positions=guess, slack=slack
            )
        except (_UnexpectedFrames, av.FFmpegError):
            sample = _sample_all(path, wanted=wanted, encode=encode, window=window, guess=guess)
        _describe(sample, container, stream)
    return sample


def open_video(path: Path) -> tuple[InputContainer, av.VideoStream]:
    """The container and its first video stream that is not a cover picture.

    Raises `VideoError`: unopenable, no video stream, codec not decodable.
    """
    container = _open(path)
    stream = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
    if stream is None or stream.codec_context is None:
        container.close()
        if stream is None:
            raise VideoError("no video stream", "the file has no video stream")
        raise VideoError("codec not decodable", "no decoder here knows its codec")
    stream.codec_context.thread_count = 1  # the pool's processes share the cores; one thread gives one result
    return container, stream


def is_video(path: Path) -> bool:
    """Whether FFmpeg opens the file and finds a video stream: not only sound, a picture or text."""
    try:
        container = _open(path, options=_QUICK_LOOK)
    except VideoError:
        return False
    with container:
        name = container.format.name
        is_picture = name.endswith("_pipe") or name in _PICTURE_FORMATS
        return not is_picture and not all(_is_cover(stream) for stream in container.streams.video)


def _open(path: Path, *, options: dict[str, str] | None = None) -> InputContainer:
    try:
        # The full path: FFmpeg takes the part of a name before a colon for a protocol.
        return av.open(os.path.abspath(path), metadata_errors="replace", options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("unopenable", describe_error(error)) from None


def describe_error(error: BaseException) -> str:
    """The message of a decoding library in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0]


def codec_of(stream: av.VideoStream) -> str:
    """The codec's name, whichever library decodes it."""
    codec = stream.codec_context.codec
    return str(getattr(codec, "canonical_name", None) or _CODECS.get(codec.name, codec.name))


def _is_cover(stream: av.VideoStream) -> bool:
    disposition = getattr(stream, "disposition", None)  # older PyAV has none
    return bool(int(getattr(disposition, "value", disposition) or 0) & _ATTACHED_PICTURE)


def _describe(sample: Sample, container: InputContainer, stream: av.VideoStream) -> None:
    version = ".".join(map(str, library_versions["libavcodec"]))
    sample.decoder = f"PyAV {av.__version__}, libavcodec {version}"
    sample.codec = codec_of(stream)
    sample.fps = round(float(stream.average_rate), 4) if stream.average_rate else None
    if stream.duration is not None and stream.time_base is not None:
        sample.duration = round(float(stream.duration * stream.time_base), 3)
    elif container.duration is not None:
        sample.duration = round(container.duration / av.time_base, 3)


class _Upright:
    """Encodes frames and remembers by how much the first one was rotated."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self.rotation: int | None = None

    def __call__(self, frame: Picture) -> Encoded:
        assert not isinstance(frame, np.ndarray), "PyAV gives frames with side data"
        if self.rotation is None:
            self.rotation = rotation_of(display_matrix(frame))
        return self._encode(frame)


# In order


def _sample_all(path: Path, *, wanted: int, encode: Encode, window: Window, guess: Range | None) -> Sample:
    frames, upright = _FramesInOrder(path), _Upright(encode)
    try:
        sample = sample_in_order(frames, wanted=wanted, encode=upright, window=window, guess=guess)
    except VideoError as error:
        raise frames.explain(error) from None
    sample.damaged, sample.rotation = frames.damaged, upright.rotation or 0
    return sample


class _FramesInOrder:
    """All frames of a file. Packets that do not decode are skipped and counted in `damaged`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged = 0
        self._undecodable = ""

    def __call__(self) -> TimedFrames:
        self.damaged = 0
        container, stream = open_video(self._path)
        origin: int | None = None
        with container:
            for frame in self._decode(container, stream):
                origin = frame.pts if origin is None else origin
                if frame.pts is None or origin is None or stream.time_base is None:
                    yield None, frame
                else:
                    yield float((frame.pts - origin) * stream.time_base), frame

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
    encode: Encode,
    positions: Range | None,
    slack: float,
) -> Sample:
    if not table.trusted or positions is None or positions[0] >= positions[1]:
        raise _UnexpectedFrames
    even = positions_within(positions, wanted)
    indices = move_to_cheap(even, table, slack=slack)
    groups = _group_by_keyframe(table, {table.times[index] for index in indices})
    needed = sum(table.count_between(start, max(group)) for start, group in groups.items())
    if stream.codec_context.name != "h264" and needed > (1 - _WORTH_SEEKING) * table.packets:
        raise _UnexpectedFrames
    upright = _Upright(encode)
    pictures: dict[int, Encoded] = {}
    for start, group in groups.items():
        for frame in _decode_group(container, stream, start=start, group=group):
            pictures[cast(int, frame.pts)] = upright(frame)
    chosen = [pictures[table.times[index]] for index in indices]
    sample = Sample(indices, chosen, frames=positions[1] - positions[0], by_index=True)
    sample.moved = max(abs(taken - planned) for taken, planned in zip(indices, even, strict=True))
    sample.rotation = upright.rotation or 0
    return sample


def _group_by_keyframe(table: PacketTable, wanted: set[int]) -> dict[int, set[int]]:
    """The wanted pts by the pts of the key frame from which they are decoded, in order."""
    groups: dict[int, set[int]] = {}
    for pts in sorted(wanted):
        start = table.start_of(pts)
        if start is None:
            raise _UnexpectedFrames
        groups.setdefault(start, set()).add(pts)
    return groups


def _decode_group(
    container: InputContainer, stream: av.VideoStream, *, start: int, group: set[int]
) -> Iterator[av.VideoFrame]:
    """The frames with the pts of `group`, decoded from the key frame at `start` on.

    In H.264, frames that are not wanted and that no other frame refers to (NONREF) are skipped; this does not
    change the other frames. Raises `_UnexpectedFrames` if a frame of the group is not decoded.
    """
    context = stream.codec_context
    skippable = context.name == "h264"
    unread, unseen = set(group), set(group)
    container.seek(start, stream=stream)
    for number, packet in enumerate(container.demux(stream)):
        if not number and packet.pts != start:
            raise _UnexpectedFrames
        if skippable:
            context.skip_frame = "DEFAULT" if packet.pts in unread else "NONREF"
        unread.discard(packet.pts)
        frames = context.decode(packet)
        if not unread:
            frames = [*frames, *context.decode(None)] if packet.size else frames
        for frame in frames:
            if frame.pts in unseen:
                if frame.is_corrupt:
                    raise _UnexpectedFrames
                unseen.discard(frame.pts)
                yield frame
        if not unread:
            break
    if unseen:
        raise _UnexpectedFrames
