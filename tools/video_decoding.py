"""Pick frames of a video file, exact to the frame.

Legend: N pictures that decode, n pictures wanted; pictures are BGR uint8 [H, W, 3].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np


class VideoError(Exception):
    """A video gives no frames; `reason` is the class of the fault, the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def spread_positions(frames: int, wanted: int) -> list[int]:
    """`wanted` positions spread evenly over 0..frames-1, first and last included, never decreasing."""
    return [int(position) for position in np.linspace(0, frames - 1, wanted).round()]


def decode_all(path: Path) -> Iterator[av.VideoFrame]:
    """All pictures of the first video stream in order; packets that do not decode are passed over."""
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise VideoError("unopenable", str(error)) from error
    with container:
        if not container.streams.video:
            raise VideoError("no video stream", "the file has no video stream")
        for packet in container.demux(container.streams.video[0]):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue


def shrink(picture: np.ndarray, *, short_side: int) -> np.ndarray:
    """`picture` with its shorter side at `short_side` pixels, area-averaged; never enlarged; 0 keeps it."""
    height, width = picture.shape[:2]
    shorter = min(height, width)
    if not short_side or shorter <= short_side:
        return picture
    size = (max(1, round(width * short_side / shorter)), max(1, round(height * short_side / shorter)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def sample_jpegs(path: Path, *, wanted: int, short_side: int, quality: int) -> list[bytes]:
    """`wanted` JPEGs of the video at `spread_positions`. Raises `VideoError` where it has no frames."""
    total = sum(1 for _ in decode_all(path))
    if not total:
        raise VideoError("no frames", "no frame of the file decodes")
    positions = spread_positions(total, wanted)
    encoded: dict[int, bytes] = {}
    for index, frame in enumerate(decode_all(path)):
        if index in set(positions):
            picture = shrink(frame.to_ndarray(format="bgr24"), short_side=short_side)
            encoded[index] = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return [encoded[position] for position in positions]
