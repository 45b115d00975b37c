"""From a decoded frame to the stored JPEG: upright, small, with the right colours.

Legend: pictures are BGR uint8 [H, W, 3]. The display matrix is FFmpeg's: three rows of three 32-bit
numbers. The first two numbers of the first two rows rotate and mirror the picture.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter

from video.tone_mapping import HDR, UNSPECIFIED, tone_map

# (Kr, Kb) by FFmpeg's numbers of colour matrices; others do not occur in videos.
_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601
    6: (0.299, 0.114),
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),
}
_BT709, _BT601 = 1, 5
_FULL_RANGE = 2
# The pool's processes use all cores already. Older PyAV has no such option.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

Picture: TypeAlias = "av.VideoFrame | np.ndarray"
# Signs of the display matrix's (a, b, c, d): x' = a·x + c·y, y' = b·x + d·y.
Signs = tuple[int, int, int, int]


@dataclass(frozen=True)
class Encoded:
    """A stored picture: its JPEG and its size in pixels."""

    jpeg: bytes
    height: int
    width: int


class Encode(Protocol):
    """What makes the stored picture of a frame: a `PictureEncoder`, or a stand-in for it."""

    def __call__(self, frame: Picture, *, transfer: int = UNSPECIFIED) -> Encoded: ...


class PictureEncoder:
    """Makes the stored JPEG of a frame: a PyAV frame, or a BGR array that is already upright.

    `short_side`: the shorter side is reduced to this by area averaging, never enlarged; 0 keeps the size.
    `quality` of the JPEG, 1 to 100.
    """

    def __init__(self, *, short_side: int, quality: int) -> None:
        self.short_side = short_side
        self.quality = quality
        self._scaler = VideoReformatter()

    def __call__(self, frame: Picture, *, transfer: int = UNSPECIFIED) -> Encoded:
        """`transfer`: the frame's transfer characteristic; PQ and HLG are mapped to SDR."""
        picture = (
            self._shrink_array(frame) if isinstance(frame, np.ndarray) else self._upright(frame, transfer)
        )
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        assert done, "OpenCV could not encode a picture of its own making"
        return Encoded(jpeg=data.tobytes(), height=picture.shape[0], width=picture.shape[1])

    def _upright(self, frame: av.VideoFrame, transfer: int) -> np.ndarray:
        width, height = small_size(frame.width, frame.height, short_side=self.short_side)
        size: dict[str, Any] = {"width": width, "height": height, "interpolation": "AREA", **_ONE_THREAD}
        if transfer in HDR:
            picture = tone_map(self._small_colours(frame, size), transfer=transfer)
        else:
            picture = self._small_bgr(frame, size)
        return apply_display_matrix(picture, matrix=display_matrix(frame))

    def _small_bgr(self, frame: av.VideoFrame, size: dict[str, Any]) -> np.ndarray:
        """Shrink the YUV planes first, then convert the small picture to BGR by the frame's matrix."""
        if not _is_yuv(frame):
            return self._scaler.reformat(frame, format="bgr24", **size).to_ndarray()
        full = frame.format.name.startswith("yuvj")  # keep the range, so that no value changes
        small = self._scaler.reformat(frame, format="yuvj444p" if full else "yuv444p", **size)
        planes = [_plane(plane, size) for plane in small.planes]
        return cv2.transform(cv2.merge(planes), bgr_of_yuv(*colour_of(frame)))

    def _small_colours(self, frame: av.VideoFrame, size: dict[str, Any]) -> np.ndarray:
        """The small picture with the precision of 16 bits: RGB float32 [H, W, 3], 0 to 1."""
        if not _is_yuv(frame):
            colours = self._scaler.reformat(frame, format="rgb48le", **size).to_ndarray()
            return colours.astype(np.float32) * np.float32(1 / 65535)
        small = self._scaler.reformat(frame, format="yuv444p16le", **size)
        planes = [_plane(plane, size, dtype=np.uint16) for plane in small.planes]
        samples = cv2.merge(planes).astype(np.float32) * np.float32(1 / 256)
        bgr = cv2.transform(samples, bgr_of_yuv(*colour_of(frame)))
        return bgr[..., ::-1] * np.float32(1 / 255)

    def _shrink_array(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        size = small_size(width, height, short_side=self.short_side)
        return picture if size == (width, height) else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _is_yuv(frame: av.VideoFrame) -> bool:
    return frame.format.name.startswith(("yuv", "nv", "p0"))


def _plane(plane: Any, size: dict[str, Any], *, dtype: type = np.uint8) -> np.ndarray:
    """A plane of samples [height, width], as it is stored in memory."""
    stored = plane.line_size // np.dtype(dtype).itemsize  # samples of a line, with its padding
    return np.frombuffer(plane, dtype).reshape(size["height"], stored)[:, : size["width"]]


def small_size(width: int, height: int, *, short_side: int) -> tuple[int, int]:
    """(width, height) with the shorter side reduced to `short_side`, in proportion; 0 keeps the size."""
    shorter = min(width, height)
    if not short_side or shorter <= short_side:
        return width, height
    return max(1, round(width * short_side / shorter)), max(1, round(height * short_side / shorter))


def colour_of(frame: av.VideoFrame) -> tuple[int, bool]:
    """The colour matrix of a frame's YUV, and whether its range is full.

    From the tags. A frame without a tag is BT.709 from 720 lines on and BT.601 below, as in players.
    """
    matrix = int(frame.colorspace)
    if matrix not in _WEIGHTS:
        matrix = _BT709 if min(frame.width, frame.height) >= 720 else _BT601
    return matrix, int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")


@lru_cache(maxsize=16)
def bgr_of_yuv(matrix: int, full: bool) -> np.ndarray:
    """The affine map [3, 4] from (Y, U, V, 1), 0 to 255 each, to (B, G, R)."""
    red, blue = _WEIGHTS[matrix]
    luma, chroma, black = (1.0, 1.0, 0.0) if full else (255 / 219, 255 / 224, 16.0)
    to_blue, to_red = 2 * (1 - blue) * chroma, 2 * (1 - red) * chroma
    green = 1 - red - blue
    linear = np.array(
        [
            [luma, to_blue, 0.0],
            [luma, -to_blue * blue / green, -to_red * red / green],
            [luma, 0.0, to_red],
        ]
    )
    offset = linear @ np.array([black, 128.0, 128.0])
    return np.concatenate([linear, -offset[:, None]], axis=1).astype(np.float32)


def display_matrix(frame: av.VideoFrame) -> Signs | None:
    """The signs of a frame's display matrix, or None if the frame is shown as it is."""
    side_data: Any = frame.side_data  # its stubs name another type of key
    data = side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return None
    a, b, _, c, d, *_ = ((value > 0) - (value < 0) for value in struct.unpack("=9i", bytes(data)[:36]))
    return None if (a, b, c, d) == (1, 0, 0, 1) else (a, b, c, d)


def apply_display_matrix(picture: np.ndarray, *, matrix: Signs | None) -> np.ndarray:
    """`picture` rotated and mirrored by its display matrix.

    Only rotations by multiples of 90 degrees and mirroring are applied; other matrices are ignored.
    """
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if (b, c) == (0, 0) and a and d:
        return np.ascontiguousarray(picture[::d, ::a])
    if (a, d) == (0, 0) and b and c:
        return np.ascontiguousarray(picture.transpose(1, 0, 2)[::b, ::c])
    return picture


def rotation_of(matrix: Signs | None) -> int:
    """Degrees clockwise by which the display matrix rotates: 0, 90, 180, 270. Mirroring is ignored."""
    turns = {(-1, 0, 0, -1): 180, (0, 1, -1, 0): 90, (0, -1, 1, 0): 270}
    return turns.get(matrix, 0) if matrix is not None else 0
