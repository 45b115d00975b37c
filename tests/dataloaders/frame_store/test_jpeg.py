"""Decoding of stored JPEGs: the pixels and errors of OpenCV, and decoding at a part of the size."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.errors import UserError
from dataloaders.frame_store.jpeg import decode_jpeg

ORIENTATION = 0x0112


def picture(height: int = 97, width: int = 131, *, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return jpeg(image, exif=exif)


def by_opencv(data: bytes) -> NDArray[np.uint8]:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


KINDS = {
    "usual": jpeg(picture()),
    "without subsampling": jpeg(picture(), subsampling=0),
    "4:2:2": jpeg(picture(), subsampling=1),
    "progressive": jpeg(picture(), progressive=True),
    "RGB": jpeg(picture(), keep_rgb=True),
    "grey": jpeg(picture().convert("L")),
    "CMYK": jpeg(picture().convert("CMYK")),
    "with a comment": jpeg(picture(), comment=b"made by a test"),
    "turned by EXIF": turned(picture()),
    "fill bytes before a segment": jpeg(picture()).replace(b"\xff\xdb", b"\xff\xff\xdb", 1),
    "padded": jpeg(picture()) + bytes(16),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_opencv(kind: str) -> None:
    data = KINDS[kind]
    decoded = decode_jpeg(memoryview(data))
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, by_opencv(data))
    assert decoded.shape == ((131, 97, 3) if "turned" in kind else (97, 131, 3))


@pytest.mark.parametrize(
    ("times", "shape"),
    [(0.5, (97, 131)), (1.99, (97, 131)), (2, (49, 66)), (3.9, (49, 66)), (4, (25, 33)), (9, (13, 17))],
)
def test_a_picture_is_decoded_at_the_scale_needed(times: float, shape: tuple[int, int]) -> None:
    asked = []

    def excess(height: int, width: int) -> float:
        asked.append((height, width))
        return times

    decoded = decode_jpeg(KINDS["usual"], excess)
    assert decoded.shape[:2] == shape and asked == [(97, 131)]


def test_a_part_of_the_size_shows_the_means_of_blocks() -> None:
    data = jpeg(picture(96, 128), quality=95, subsampling=0)
    for divisor in (2, 4, 8):
        small = picture(96, 128).resize((128 // divisor, 96 // divisor), Image.Resampling.BOX)
        decoded = decode_jpeg(data, lambda *_, divisor=divisor: float(divisor))
        assert np.abs(decoded.astype(int) - np.asarray(small).astype(int)).mean() < 2


@pytest.mark.parametrize("kind", ["CMYK", "turned by EXIF"])
def test_other_kinds_are_decoded_in_full(kind: str) -> None:
    assert np.array_equal(decode_jpeg(KINDS[kind], lambda *_: 4.0), by_opencv(KINDS[kind]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 2), (8, 8), (17, 3)])
def test_small_pictures(height: int, width: int) -> None:
    data = jpeg(picture(height, width))
    assert np.array_equal(decode_jpeg(data), by_opencv(data))
    assert decode_jpeg(data, lambda *_: 2.0).shape == (-(-height // 2), -(-width // 2), 3)


def test_damage_gives_the_pixels_or_the_error_of_opencv() -> None:
    rng = np.random.default_rng(0)
    whole = jpeg(picture(200, 300))
    outcomes = {"pixels": 0, "error": 0}
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(2, len(data) - 70)] = rng.integers(256)
        try:
            expected = by_opencv(bytes(data))
        except cv2.error:
            outcomes["error"] += 1
            with pytest.raises(UserError, match="broken JPEG"):
                decode_jpeg(bytes(data))
            continue
        outcomes["pixels"] += 1
        assert np.array_equal(decode_jpeg(bytes(data)), expected)
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JPEG"),
        (b"\x89PNG" + bytes(200), "not a JPEG"),
        (jpeg(picture())[:1000], "broken JPEG: cut off after 1000 bytes"),
        (b"\xff\xd8 nonsense \xff\xd9", "broken JPEG: it cannot be decoded"),
        (b"\xff\xd8\xff\xd9", "broken JPEG: it cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        decode_jpeg(data)
