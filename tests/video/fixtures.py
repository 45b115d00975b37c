"""Small videos for tests, written with PyAV: frames that carry their own number, and odd files of every kind.

Legend: N frames of a video. A numbered frame shows its number as ten black or white bars, least bit first,
which survive compression, scaling and JPEG.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 10
WIDTH, HEIGHT = 80, 48  # eight pixels a bar
X264 = {"preset": "ultrafast", "bf": "3", "b-pyramid": "normal", "g": "250", "sc_threshold": "0"}


def numbered(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A grey RGB picture [height, width, 3] with `number` as bars; its top quarter changes with it."""
    bars = np.array([(number >> bit) & 1 for bit in range(BITS)], dtype=np.uint8)
    row = np.repeat(bars * 200 + 28, -(-width // BITS))[:width]
    picture = np.repeat(np.tile(row, (height, 1))[:, :, None], 3, axis=2)
    picture[: height // 4] = 60 + (number * 7) % 120
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number in a picture that `numbered` made, after any compression."""
    height, width = picture.shape[:2]
    grey = picture[height // 2 :].mean(axis=(0, 2))
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, centre in enumerate(centres) if grey[centre] > 128)


def write_video(
    path: Path,
    *,
    frames: int,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pix_fmt: str = "yuv420p",
    picture: Callable[[int], np.ndarray] | None = None,
    container_options: dict[str, str] | None = None,
    target: Any = None,
    format: str | None = None,
) -> Path:
    """Encode `frames` numbered frames, or `picture(i)`, at `times` in units of 1 / `rate` (0, 1, ...)."""
    width, height = size
    options = dict(X264) if codec == "libx264" and options is None else (options or {})
    with av.open(target or str(path), "w", format=format, options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = 1 / Fraction(rate)
        stream.codec_context.thread_count = 1
        for number in range(frames):
            array = picture(number) if picture else numbered(number, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = times[number] if times else number
            frame.time_base = 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_unknown_codec(path: Path) -> Path:
    """A complete H.264 file whose sample entry names an unknown codec: it opens, but nothing decodes it."""
    data = bytearray(write_video(path, frames=20).read_bytes())
    place = data.index(b"avc1", data.index(b"stsd"))
    data[place : place + 4] = b"zzzz"
    path.write_bytes(data)
    return path


def packets_of(path: Path) -> tuple[list[av.Packet], av.container.InputContainer]:
    """The video packets of a file, and its container, which the caller keeps open while it uses them."""
    container = av.open(str(path))
    return [packet for packet in container.demux(video=0) if packet.size], container


def remux(path: Path, source: Path, *, keep: Callable[[int], bool] = lambda _: True, shift: int = 0) -> Path:
    """Copy the packets of `source` for which `keep(i)` holds, moved by `shift` frames of 1/25 s."""
    packets, original = packets_of(source)
    with original, av.open(str(path), "w") as container:
        template = original.streams.video[0]
        add = getattr(container, "add_stream_from_template", None)
        stream = add(template) if add else container.add_stream(template=template)
        for number, packet in enumerate(packets):
            if keep(number):
                move = int(Fraction(shift, 25) / packet.time_base)
                packet.pts, packet.dts = packet.pts + move, packet.dts + move
                packet.stream = stream
                container.mux(packet)
    return path


def rotate_tag(path: Path, source: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copy an mp4 with the signs (a, b, c, d) in the display matrix of its track header."""
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 4
    assert data[start] == 0, "a track header of version 0"
    a, b, c, d = (sign << 16 for sign in matrix)
    data[start + 40 : start + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


class _Pipe(io.RawIOBase):
    """A file without seek, so that the muxer cannot go back and fill in lengths."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 (closed in close)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def write_unseekable(path: Path, *, frames: int, codec: str, format: str, options: dict[str, str]) -> Path:
    """Encode into a pipe: no duration and no frame count in the header."""
    pipe = _Pipe(path)

    class Target:  # PyAV takes an object without `seek` for a pipe
        write = staticmethod(pipe.write)

    write_video(path, frames=frames, codec=codec, format=format, options=options, target=Target())
    pipe.close()
    return path


def write_audio(path: Path) -> Path:
    """One second of sound without a video stream."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        stream.layout = "mono"
        for start in range(0, 44032, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_mjpeg_that_changes(path: Path) -> Path:
    """An AVI of motion JPEG whose first frame has another pixel format than the nine after it."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj422p"
        for number in range(10):
            for packet in _jpeg_packets(number, "yuvj422p" if number == 0 else "yuvj420p"):
                packet.stream, packet.pts, packet.dts = stream, number, number
                packet.time_base = Fraction(1, 10)
                container.mux(packet)
    return path


def _jpeg_packets(number: int, pix_fmt: str) -> Iterable[av.Packet]:
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, pix_fmt
    encoder.time_base = Fraction(1, 10)
    frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24").reformat(format=pix_fmt)
    return [*encoder.encode(frame), *encoder.encode(None)]


def flip_bytes(path: Path, source: Path, *, packet: int, count: int = 40) -> Path:
    """Copy `source` with inverted bytes in the middle of one packet."""
    packets, container = packets_of(source)
    with container:
        hurt = packets[packet]
        position, size = hurt.pos, hurt.size
    data = bytearray(source.read_bytes())
    middle = position + size // 2
    for place in range(middle, min(middle + count, position + size)):
        data[place] ^= 0xFF
    path.write_bytes(data)
    return path
