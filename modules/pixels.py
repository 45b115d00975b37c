"""From the bytes of frames to the first layer of an image tower: normalised pixels, patches.

Shapes: N frames, S pixels a side, P pixels a side of a patch, G = S // P patches a side, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# CLIP's statistics of pixels from 0 to 1, in the order red, green, blue.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class PixelNormalization(nn.Module):
    """Bytes to (value / 255 - mean) / standard deviation, in the type that the image tower computes in."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = PIXEL_MEAN, std: Sequence[float] = PIXEL_STD) -> None:
        super().__init__()
        # Constants, which published checkpoints do not have.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """[N, 3, S, S]. Under autocast the result has its type: it is computed in float32 and rounded once.

        Frames that are floats are normalised already; they get the type of the weights.
        """
        if frames.dtype != torch.uint8:
            return frames.to(self.mean.dtype)
        # In place, because a batch of frames as floats takes much memory.
        pixels = frames.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        kind = frames.device.type
        return pixels.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else pixels


class PatchEmbedding(nn.Module):
    """A convolution whose kernel covers each pixel once, as one matrix product; the weight is the same."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight  # [D, 3, P, P]
        self.bias = convolution.bias

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, D, G, G]. Pixels after the last whole patch are not used, as by nn.Conv2d."""
        height, width = self.weight.shape[-2:]
        rows, columns = pixels.shape[-2] // height, pixels.shape[-1] // width
        pixels = pixels[..., : rows * height, : columns * width]
        grid = pixels.unflatten(3, (columns, width)).unflatten(2, (rows, height))  # [N, 3, G, P, G, P]
        patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [N, G * G, 3 * P * P]
        embeds = F.linear(patches, self.weight.flatten(1), self.bias)
        return embeds.transpose(1, 2).unflatten(2, (rows, columns))


def replace_patch_convolution(tower: Any) -> None:
    """Make `tower.conv1` a `PatchEmbedding` where its kernel covers each pixel once."""
    convolution = getattr(tower, "conv1", None)
    if (
        type(convolution) is nn.Conv2d
        and convolution.stride == convolution.kernel_size
        and convolution.padding == (0, 0)
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
    ):
        tower.conv1 = PatchEmbedding(convolution)
