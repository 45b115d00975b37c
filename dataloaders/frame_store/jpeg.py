"""JPEG -> RGB picture, in full or at the half, a quarter or an eighth of its size.

libjpeg-turbo decodes the usual JPEGs straight to RGB (simplejpeg). OpenCV decodes the rest, and says what is
wrong with broken ones: those with EXIF data, which may ask for a turned picture, CMYK, and whatever
libjpeg-turbo has a warning about. Both give the same pixels where both can decode.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from common.errors import UserError

# (height, width) of a picture -> how many times larger than needed it is, on its shorter side.
Excess = Callable[[int, int], float]

_START, _END = b"\xff\xd8", b"\xff\xd9"
_APP1 = 0xE1  # the segment that holds EXIF data
_SCAN = 0xDA
_MOST_PIXELS = 1 << 30  # OpenCV's limit
_USUAL = ("YCbCr", "Gray")


def decode_jpeg(data: bytes | memoryview, excess: Excess | None = None) -> NDArray[np.uint8]:
    """The picture of a JPEG, RGB uint8 [H, W, 3]. Raises `UserError` if it is no JPEG, cut off or broken.

    With `excess`, a picture at least 2, 4 or 8 times larger than needed may be decoded at 1/2, 1/4 or 1/8 of
    its size, rounded up: in the transform of its blocks, which is faster than resizing the pixels.
    """
    view = _whole(data)
    try:
        return _decode_usual(view, excess)
    except ValueError:
        return _decode_any(view)


def usual_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(height, width) of a JPEG that any decoder can decode, from its header.

    None for one that OpenCV decodes here, or none does. Raises `UserError` if it is no JPEG or cut off.
    """
    try:
        return _usual_header(_whole(data))
    except ValueError:
        return None


def _whole(data: bytes | memoryview) -> memoryview:
    """The bytes, of which the first and the last are looked at."""
    # The decoder fills the rest of a cut-off picture with grey without an error.
    view = memoryview(data)
    if bytes(view[:2]) != _START:
        raise UserError("not a JPEG")
    if _END not in bytes(view[-64:]):  # some encoders pad after the end mark
        raise UserError(f"broken JPEG: cut off after {len(view)} bytes")
    return view


def _decode_usual(view: memoryview, excess: Excess | None) -> NDArray[np.uint8]:
    """Raises `ValueError` for a JPEG that needs `_decode_any`."""
    height, width = _usual_header(view)
    if excess is None or (times := excess(height, width)) < 2:
        return simplejpeg.decode_jpeg(view)
    divisor = 8 if times >= 8 else 4 if times >= 4 else 2
    # It takes the smallest size with both of these sides.
    return simplejpeg.decode_jpeg(view, min_height=-(-height // divisor), min_width=-(-width // divisor))


def _usual_header(view: memoryview) -> tuple[int, int]:
    """(height, width). Raises `ValueError` for a JPEG that needs `_decode_any`."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(view)
    if colours not in _USUAL or height * width > _MOST_PIXELS or _has_app1(view):
        raise ValueError
    return height, width


def _has_app1(view: memoryview) -> bool:
    """Whether a segment before the first scan is an APP1. Raises `ValueError` if the segments are broken."""
    position = 2
    while position + 4 <= len(view):
        marker = view[position + 1]
        if view[position] != 0xFF or marker == 0xFF:
            raise ValueError
        if marker in (_APP1, _SCAN):
            return marker == _APP1
        position += 2 + (view[position + 2] << 8 | view[position + 3])
    raise ValueError


def _decode_any(view: memoryview) -> NDArray[np.uint8]:
    try:
        picture = cv2.imdecode(np.frombuffer(view, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UserError(f"broken JPEG: {error.err}") from None
    if picture is None:
        raise UserError("broken JPEG: it cannot be decoded")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture).astype(np.uint8, copy=False)
