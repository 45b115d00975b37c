"""Videos that need more than decoding: HDR, interlaced, several streams, uneven times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.video.fixtures import X264, numbered

PATCH = 32  # pixels a side
# R'G'B' of patches: white and grey, bright and dark colours, as values of the HDR signal.
PQ_PATCHES = [
    (0.5806, 0.5806, 0.5806),  # reference white, 203 nits
    (0.7518, 0.7518, 0.7518),  # 1000 nits
    (0.3800, 0.3800, 0.3800),
    (0.60, 0.30, 0.25),
    (0.30, 0.55, 0.35),
    (0.25, 0.30, 0.60),
    (0.52, 0.47, 0.44),
    (0.0, 0.0, 0.0),
]
HLG_PATCHES = [
    (0.75, 0.75, 0.75),  # reference white
    (1.0, 1.0, 1.0),
    (0.40, 0.40, 0.40),
    (0.80, 0.35, 0.30),
    (0.35, 0.75, 0.40),
    (0.30, 0.35, 0.80),
    (0.65, 0.55, 0.50),
    (0.0, 0.0, 0.0),
]


def write_hdr(path: Path, patches: Sequence[tuple[float, float, float]], *, transfer: str) -> Path:
    """Two frames of patches side by side: BT.2020, 10 bits, limited range; `transfer` as x265 names it."""
    colours = np.array(patches) @ np.array(  # to Y, U, V by BT.2020's matrix
        [
            [0.2627, -0.2627 / 1.8814, 0.7373 / 1.4746],
            [0.6780, -0.6780 / 1.8814, -0.6780 / 1.4746],
            [0.0593, 0.9407 / 1.8814, -0.0593 / 1.4746],
        ]
    )
    samples = np.round(colours * [876, 896, 896] + [64, 512, 512]).astype("<u2")
    width = PATCH * len(patches)
    tags = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:range=limited"
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "x265-params": f"qp=4:log-level=none:pools=1:{tags}"}
        stream: Any = container.add_stream("libx265", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = width, PATCH, "yuv420p10le"
        for number in range(2):
            frame = av.VideoFrame(width, PATCH, "yuv420p10le")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for plane, values in zip(frame.planes, samples.T, strict=True):
                row = np.repeat(values, plane.width // len(patches))
                lines = np.zeros((plane.height, plane.line_size // 2), "<u2")
                lines[:, : plane.width] = row
                plane.update(lines.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_interlaced(path: Path, *, frames: int) -> Path:
    """A white bar that moves by 4 pixels from field to field over grey; bottom field first."""
    options = {"preset": "ultrafast", "qp": "4", "x264-params": "bff=1"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(frames):
            picture = field_picture(2 * number + 1)
            picture[1::2] = field_picture(2 * number)[1::2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def field_picture(moment: int) -> np.ndarray:
    """What the camera sees at a moment, of two a frame: RGB [96, 160, 3]."""
    picture = np.full((96, 160, 3), 60, np.uint8)
    picture[:, 8 + 4 * moment : 40 + 4 * moment] = 220
    return picture


def write_streams(path: Path, *streams: dict[str, Any]) -> Path:
    """A file with several video streams: each has `frames`, `size`, `default` and the first `number`."""
    with av.open(str(path), "w") as container:
        added: list[Any] = []
        for wanted in streams:
            stream: Any = container.add_stream("libx264", rate=10, options=dict(X264))
            stream.width, stream.height = wanted["size"]
            stream.pix_fmt = "yuv420p"
            try:
                stream.disposition = int(wanted["default"])  # FFmpeg's bit 1
            except AttributeError:
                pytest.skip("this PyAV cannot set the default flag")
            added.append(stream)
        for stream, wanted in zip(added, streams, strict=True):
            width, height = wanted["size"]
            for number in range(wanted["frames"]):
                picture = numbered(wanted["number"] + number, width=width, height=height)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def write_with_sound(path: Path, *, pictures: float, sound: float, later: int = 0) -> Path:
    """So many seconds of numbered frames, 10 a second, that begin `later` seconds after the sound."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=10, options=dict(X264))
        video.width, video.height, video.pix_fmt = 80, 48, "yuv420p"
        audio: Any = container.add_stream("aac", rate=44100)
        audio.layout = "mono"
        for number in range(round(10 * pictures)):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = number + 10 * later, Fraction(1, 10)
            container.mux(video.encode(frame))
        for start in range(0, round(44100 * sound), 1024):
            zeros = np.zeros((1, 1024), np.float32)
            silence = av.AudioFrame.from_ndarray(zeros, format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 44100, start
            container.mux(audio.encode(silence))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path
