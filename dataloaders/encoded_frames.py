"""Training clips as JPEGs that the model's device decodes, in place of pixels (`--decode_on gpu`).

A worker reads the JPEGs of a clip and looks at their headers; the device decodes, crops and resizes the
frames of a whole batch. An NVIDIA GPU decodes with nvJPEG, whose pixels differ a little from libjpeg-turbo's.

In a batch of B clips: `jpegs` uint8 [bytes], one frame after another; `jpeg_sizes` int64 [B, F, 4], see
below; `image_size` int64 [B, 3], a `Resize`; with CHVTT's augmentation also `crops` int64 [B, F, 5]. All are
on the host.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from common.device_copies import on_device
from common.errors import UserError
from dataloaders.augmentation import Augmentation, resize_crop
from dataloaders.frame_store.jpeg import decode_jpeg, usual_size
from dataloaders.transforms import FrameSize, Resize, as_resize, fit_pictures

logger = logging.getLogger(__name__)

ENTRIES = ("jpegs", "jpeg_sizes", "image_size", "crops")
# The columns of `jpeg_sizes`. A JPEG that only OpenCV decodes is decoded by the worker: then its bytes are
# pixels [height, width, 3].
KIND, BYTES, HEIGHT, WIDTH = range(4)
PADDING, JPEG, PIXELS = range(3)
_CHUNK = 128  # pictures that are resized at once: 134 MB of float32 at 341 x 256 pixels


def encoded_clip(
    jpegs: Iterable[bytes],
    *,
    max_frames: int,
    image_size: FrameSize,
    augmentation: Augmentation | None = None,
) -> dict[str, Tensor]:
    """The entries of a sample, from the JPEGs of its frames, at most `max_frames`.

    Raises `UserError` for what is not a JPEG, or cut off. Damage in the middle is found by the device.
    """
    parts: list[NDArray[np.uint8]] = []
    sizes = torch.zeros(max_frames, 4, dtype=torch.int64)
    crops = torch.zeros(max_frames, 5, dtype=torch.int64)
    for number, data in enumerate(jpegs):
        kind, part, (height, width) = _checked(data)
        parts.append(part)
        sizes[number] = torch.tensor([kind, len(part), height, width])
        if augmentation is not None:
            crop = augmentation.crops[number]
            crops[number] = torch.tensor([*crop.box(height, width), crop.mirrored])
    sample = {
        "jpegs": torch.from_numpy(np.concatenate(parts)),
        "jpeg_sizes": sizes,
        "image_size": as_resize(image_size).as_tensor(),
    }
    return sample if augmentation is None else sample | {"crops": crops}


def _checked(data: bytes) -> tuple[int, NDArray[np.uint8], tuple[int, int]]:
    """Kind, bytes, and (height, width) of a stored frame."""
    size = usual_size(data)
    if size is not None:
        return JPEG, np.frombuffer(data, dtype=np.uint8), size
    picture = decode_jpeg(data)
    return PIXELS, picture.reshape(-1), (picture.shape[0], picture.shape[1])


def collate(samples: Sequence[Any]) -> Any:
    """torch's default, but the JPEGs, whose lengths differ, one after another."""
    jpegs = [sample["jpegs"] for sample in samples if isinstance(sample, dict) and "jpegs" in sample]
    if not jpegs:
        return default_collate(list(samples))
    rest = [{name: value for name, value in sample.items() if name != "jpegs"} for sample in samples]
    return {**default_collate(rest), "jpegs": torch.cat(jpegs)}


def decode_clips(batch: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """The frames of a batch on `device`: uint8 [B, F, 3, S, S]; padding is 0.

    A clip with a frame that cannot be decoded is black there, and its `replaced` becomes 1.
    """
    sizes = batch["jpeg_sizes"]
    resize = Resize.of_tensor(batch["image_size"][0])
    count, side = sizes.shape[:2].numel(), resize.size
    rows = sizes.flatten(0, 1).tolist()
    real = [number for number, row in enumerate(rows) if row[KIND] != PADDING]
    parts = batch["jpegs"].split([rows[number][BYTES] for number in real])
    pictures = dict(zip(real, _pictures(parts, [rows[number] for number in real], device), strict=True))
    frames = torch.zeros(count, 3, side, side, dtype=torch.uint8, device=device)
    boxes = batch["crops"].flatten(0, 1).tolist() if "crops" in batch else None
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in real:
        picture = pictures[number]
        if picture is None:
            batch["replaced"][number // sizes.shape[1]] = 1
        else:
            box = () if boxes is None else tuple(boxes[number])
            groups.setdefault((*picture.shape[1:], *box), []).append(number)
    for key, numbers in groups.items():
        for start in range(0, len(numbers), _CHUNK):
            part = numbers[start : start + _CHUNK]
            stacked = torch.stack([_present(pictures[number]) for number in part])
            fitted = fit_pictures(stacked, resize) if boxes is None else resize_crop(stacked, key[2:], side)
            frames.index_copy_(0, on_device(torch.tensor(part), device), fitted)
    return frames.unflatten(0, sizes.shape[:2])


def _present(picture: Tensor | None) -> Tensor:
    assert picture is not None
    return picture


def _pictures(
    parts: Sequence[Tensor], rows: Sequence[Sequence[int]], device: torch.device
) -> list[Tensor | None]:
    """Each frame as uint8 [3, H, W] on `device`; None for one that cannot be decoded."""
    pictures: list[Tensor | None] = [None] * len(parts)
    encoded = [number for number, row in enumerate(rows) if row[KIND] == JPEG]
    try:
        decoded: list[Tensor | None] = list(_decoder()([parts[n] for n in encoded], device))
    except RuntimeError:  # one broken frame fails them all
        decoded = [_decoded_here(parts[number], device) for number in encoded]
    for number, picture in zip(encoded, decoded, strict=True):
        pictures[number] = picture
    for number, row in enumerate(rows):
        if row[KIND] == PIXELS:
            pixels = parts[number].view(row[HEIGHT], row[WIDTH], 3).permute(2, 0, 1)
            pictures[number] = on_device(pixels.contiguous(), device)
    return pictures


@functools.cache
def _decoder() -> Any:
    """torchvision's decoder of many JPEGs; it takes a second to load.

    torchvision 0.29 names torchcodec as its successor, which also needs FFmpeg's libraries.
    """
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_jpeg as decode_jpegs

    def decode(parts: list[Tensor], device: torch.device) -> list[Tensor]:
        return decode_jpegs(parts, mode=ImageReadMode.RGB, device=device) if parts else []

    return decode


def _decoded_here(part: Tensor, device: torch.device) -> Tensor | None:
    try:
        picture = decode_jpeg(part.numpy().tobytes())
    except UserError as error:
        logger.warning("a frame is black: %s", error)
        return None
    return on_device(torch.from_numpy(picture).permute(2, 0, 1).contiguous(), device)
