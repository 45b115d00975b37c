"""Stored frames -> square uint8 clips. F frames, S side of the square.

Clips stay uint8; the model's device scales them to 0..1 and applies the backbone's mean and standard
deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dataloaders.frame_store.jpeg import Excess

MAX_ASPECT = 16
MODES = ("shortest", "squash", "longest")
INTERPOLATIONS = ("bicubic", "bilinear")
# Source pixels on either side that a bicubic filter of scale 1 reads; a bilinear one reads fewer.
_BICUBIC_REACH = 2


@dataclass(frozen=True)
class Resize:
    """How a picture becomes a square of `size` pixels a side, antialiased; the default is CLIP's way.

    `mode`: the "shortest" side to S, then the centre is cropped; both sides to S ("squash"); or the "longest"
    side to S, with black borders. `interpolation`: "bicubic" or "bilinear".
    """

    size: int
    mode: str = "shortest"
    interpolation: str = "bicubic"

    def as_tensor(self) -> Tensor:
        """As numbers int64 [3], for a batch."""
        return torch.tensor([self.size, MODES.index(self.mode), INTERPOLATIONS.index(self.interpolation)])

    @classmethod
    def of_tensor(cls, numbers: Tensor) -> Resize:
        """The inverse of `as_tensor`."""
        size, mode, interpolation = numbers.tolist()
        return cls(size, MODES[mode], INTERPOLATIONS[interpolation])


FrameSize = int | Resize  # a number means CLIP's way


def as_resize(size: FrameSize) -> Resize:
    return size if isinstance(size, Resize) else Resize(size)


def resize_and_crop(frames: Sequence[NDArray[np.uint8]], size: FrameSize) -> Tensor:
    """The preprocessing of the image tower as `size` says. Returns uint8 [F, 3, S, S].

    Frames of one clip may differ in size.
    """
    resize = as_resize(size)
    clip = torch.empty(len(frames), 3, resize.size, resize.size, dtype=torch.uint8)
    fill_clip(clip, frames, resize)
    return clip


def fill_clip(clip: Tensor, frames: Iterable[NDArray[np.uint8]], resize: Resize | None = None) -> None:
    """`resize_and_crop` of as many frames as `clip` [F, 3, S, S] has, into it. None: CLIP's way."""
    resize = resize or Resize(clip.shape[-1])
    for planes, frame in zip(clip.numpy(), frames, strict=True):
        np.copyto(planes, fit_pictures(as_batch(frame), resize)[0].numpy())


def excess_of_resize(size: FrameSize) -> Excess:
    """How many times larger than `size` the side of a picture is that is resized to it.

    Where both are, that is the shorter one.
    """
    resize = as_resize(size)
    side = max if resize.mode == "longest" else min
    return lambda height, width: side(height, width) / resize.size


def fit_pictures(pictures: Tensor, resize: Resize) -> Tensor:
    """`resize_and_crop` of pictures of one size, uint8 [n, 3, H, W] on any device: uint8 [n, 3, S, S]."""
    height, width = pictures.shape[2:]
    size = resize.size
    if resize.mode == "squash":
        return interpolate(pictures, size=(size, size), mode=resize.interpolation)
    if resize.mode == "longest":
        inner = [max(1, round(side * size / max(height, width))) for side in (height, width)]
        fitted = pictures.new_zeros(len(pictures), 3, size, size)
        top, left = ((size - side) // 2 for side in inner)
        fitted[..., top : top + inner[0], left : left + inner[1]] = interpolate(
            pictures, size=inner, mode=resize.interpolation
        )
        return fitted
    # The middle of a very long picture: one of 1 x 900,000 pixels would be resized to 135 GB.
    longest = MAX_ASPECT * min(height, width)
    top, left = (round(max(0, side - longest) / 2) for side in (height, width))
    return _resize_centre(pictures[..., top : top + longest, left : left + longest], resize)


@dataclass(frozen=True)
class _Window:
    """The part of one side of a picture that its resized centre needs.

    Source pixels `start` to `stop` are resized by `scale` (new / old); of the result the centre begins at
    `skip`.
    """

    start: int
    stop: int
    scale: float
    skip: int


def _window(length: int, resized: int, size: int) -> _Window:
    """The window of a side of `length` pixels, which the resize makes `resized`, for a centre of `size`.

    It starts where a new and an old pixel begin at the same point, so the filter's weights are those of the
    whole side.
    """
    first = round((resized - size) / 2)
    per_pixel = length / resized
    reach = _BICUBIC_REACH * max(per_pixel, 1.0) + 1
    common = math.gcd(length, resized)
    old_step, new_step = length // common, resized // common
    steps = min(first // new_step, max(0, math.floor(((first + 0.5) * per_pixel - reach) / old_step)))
    start, skip = steps * old_step, first - steps * new_step
    stop = min(length, math.ceil((first + size) * per_pixel + reach))
    scale = resized / length
    if math.floor((stop - start) * scale) == stop - start:
        # torch would copy the pixels, as it does where a side keeps its length.
        start, stop, skip = 0, length, first
    while math.floor((stop - start) * scale) < skip + size:  # the product was rounded down
        scale = math.nextafter(scale, math.inf)
    return _Window(start, stop, scale, skip)


def _resize_centre(pictures: Tensor, resize: Resize) -> Tensor:
    """Pictures [n, 3, H, W] whose shorter side is resized to S, and the centre [n, 3, S, S] of that."""
    size, shorter = resize.size, min(pictures.shape[2:])
    # Rounded down, as in torchvision.
    down, across = (_window(side, int(size * side / shorter), size) for side in pictures.shape[2:])
    part = pictures[..., down.start : down.stop, across.start : across.stop]
    resized = interpolate(
        part,
        scale_factor=(down.scale, across.scale),
        recompute_scale_factor=False,
        mode=resize.interpolation,
    )
    return resized[..., down.skip : down.skip + size, across.skip : across.skip + size]


def interpolate(pictures: Tensor, **options: Any) -> Tensor:
    """torch's antialiased resize of uint8 pictures. Other devices than CPUs have it for floats only."""
    if pictures.device.type == "cpu":
        return F.interpolate(pictures, antialias=True, **options)
    resized = F.interpolate(pictures.float(), antialias=True, **options)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def as_batch(picture: NDArray[np.uint8]) -> Tensor:
    """[H, W, 3] -> [1, 3, H, W]. torch resizes uint8 faster if the channels are last and packed in memory."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
