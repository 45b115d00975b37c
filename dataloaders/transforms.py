"""Stored frames -> square uint8 clips. F frames, S side of the square.

Clips stay uint8; the model's device scales them to 0..1 and applies CLIP's mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

BICUBIC = v2.InterpolationMode.BICUBIC
# Covers three standard deviations of the strongest blur (sigma 2) on both sides.
BLUR_KERNEL = 13
MAX_ASPECT = 16


def to_tensors(frames: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
    """RGB arrays [H, W, 3] -> tensors [3, H, W], without copying."""
    return [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]


def resize_and_crop(frames: Sequence[NDArray[np.uint8]], size: int) -> Tensor:
    """CLIP's preprocessing: resize the shorter side to `size` (bicubic, antialiased), then crop the centre.

    Frames of one clip may differ in size. Returns uint8 [F, 3, S, S].
    """
    if len({frame.shape for frame in frames}) == 1:
        # torch's uint8 resize is several times faster with channels last in memory.
        return _resize_and_crop(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), size)
    return torch.stack([_resize_and_crop(tensor, size) for tensor in to_tensors(frames)])


def _resize_and_crop(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) > longest:
        # Crop very long pictures first: one of 1 x 900,000 pixels would be resized to 135 GB.
        images = F.center_crop(images, [min(height, longest), min(width, longest)])
    resized = F.resize(images, [size], interpolation=BICUBIC, antialias=True)
    return F.center_crop(resized, [size, size])


class FrameAugmentation:
    """CHVTT's pre-training augmentation, drawn separately for every frame.

    Random resized crop (scale 0.2-1), colour jitter (0.4, 0.4, 0.4, 0.1) with p 0.8, grey with p 0.2,
    Gaussian blur (sigma 0.1-2) with p 0.5, horizontal flip with p 0.5.
    """

    def __init__(self, size: int) -> None:
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(BLUR_KERNEL, sigma=(0.1, 2.0))], p=0.5),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __call__(self, frames: Sequence[NDArray[np.uint8]], *, seed: int) -> Tensor:
        """Augmented clip, uint8 [F, 3, S, S]; it depends on the frames and `seed` only."""
        # torchvision draws from torch's global generator, so its state is set here and restored.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            return torch.stack([self._transform(tensor) for tensor in to_tensors(frames)])
