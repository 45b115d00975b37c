"""A part of a video as a file of its own: its packets are copied, nothing is encoded again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from common.atomic_files import atomic_path
from common.errors import UserError
from video.frame_times import seconds_before
from video.sampling import VideoError
from video.streams import describe_error, open_video

# FFmpeg's names of the containers that are written, by the extension of the file.
FORMATS = {
    **dict.fromkeys((".mp4", ".m4v"), "mp4"),
    **dict.fromkeys((".ts", ".mts", ".m2ts"), "mpegts"),
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}


def copy_part(source: Path, target: Path, *, start: float, end: float) -> float:
    """Copy seconds `start` to `end` of `source`, picture and sound, to the new file `target`.

    Seconds are those of players. A picture can start only at a key frame, so the copy starts at the last one
    up to `start`; returns its second. Raises `UserError`: a target that exists (also the source itself, by
    any name), a part outside of the video, a container that cannot hold the streams.
    """
    format = FORMATS.get(target.suffix.lower())
    if format is None:
        raise UserError(f"{target}: give a name that ends in {', '.join(FORMATS)}")
    if not 0 <= start < end:
        raise UserError(f"from {start:g} to {end:g} s: give a start of 0 or more, and an end after it")
    if target.exists() and os.path.samefile(source, target):
        raise UserError(f"{target}: is the video itself; give a new name")
    if target.exists():
        raise UserError(f"{target}: exists already; give a new name")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such folder")
    try:
        container, video = open_video(source)
    except VideoError as error:
        raise UserError(f"{source}: {error.message}") from None
    with container, atomic_path(target) as temporary:
        try:
            return _copy(container, video, temporary, format=format, start=start, end=end)
        except (av.FFmpegError, ValueError) as error:  # PyAV's for streams that a container cannot hold
            reason = describe_error(error)
            raise UserError(
                f"{target}: cannot hold these streams ({reason}); name it {target.stem}.mkv"
            ) from None


def _copy(
    container: InputContainer,
    video: av.VideoStream,
    temporary: Path,
    *,
    format: str,
    start: float,
    end: float,
) -> float:
    wanted: list[Any] = [video, *container.streams.audio]
    first = _first_second(container, video)
    before = seconds_before(container, first)  # players' second of the first frame
    with av.open(str(temporary), "w", format=format) as output:
        copies = {stream.index: output.add_stream_from_template(stream) for stream in wanted}
        unit: Any = video.time_base
        container.seek(int((start - before + first) / unit), stream=video)
        begin: float | None = None
        for packet in _packets(container, wanted, until=end - before + first):
            begin = _second(packet) if begin is None else begin
            shift = round(begin / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            packet.stream = copies[packet.stream.index]
            output.mux(packet)
        if begin is None:
            raise UserError(f"{start:g} s: the video has no picture there")
    return round(begin - first + before, 3)


def _first_second(container: InputContainer, video: av.VideoStream) -> float:
    """The second of the first packet with a picture, on the file's clock."""
    packet = next((each for each in container.demux(video) if each.size), None)
    return 0.0 if packet is None else _second(packet)


def _packets(container: InputContainer, wanted: list[Any], *, until: float) -> Iterator[Any]:
    """The packets from the first key frame of the picture on, the first of all that key frame."""
    video, running = wanted[0].index, {stream.index for stream in wanted}
    begin: float | None = None
    early: list[Any] = []  # sound that comes before it in the file
    for packet in container.demux(wanted):
        if not packet.size or (packet.pts is None and packet.dts is None):
            continue
        number = packet.stream.index
        if number not in running:
            continue
        if begin is None:
            if number != video:
                early.append(packet)
            elif packet.is_keyframe:
                begin = _second(packet)
                if begin >= until:
                    return
                yield packet
                yield from (each for each in early if begin <= _second(each) < until)
            continue
        # A picture is decoded before it is shown: those that others refer to are kept.
        reached = packet.dts if number == video and packet.dts is not None else None
        second = _second(packet) if reached is None else float(reached * packet.time_base)
        if second >= until:
            running.discard(number)
            if not running:
                return
        elif _second(packet) >= begin:
            yield packet


def _second(packet: Any) -> float:
    """The second at which a packet is shown, on the file's clock."""
    return float((packet.dts if packet.pts is None else packet.pts) * packet.time_base)
