from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from modules.pixels import (
    PIXEL_MEAN,
    PIXEL_STD,
    PatchEmbedding,
    PixelNormalization,
    replace_patch_convolution,
)
from tests.device import DEVICE
from tests.modules import tiny

BYTES = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_bytes_become_exactly_the_float32_values() -> None:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    expected = (BYTES.float() / 255 - mean) / std
    pixels = PixelNormalization().to(DEVICE)(BYTES)
    assert pixels.dtype == torch.float32 and torch.equal(pixels, expected)
    assert PixelNormalization()(expected) is expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_float32_values_are_rounded_once(dtype: torch.dtype) -> None:
    normalize = PixelNormalization().to(DEVICE)
    expected = normalize(BYTES).to(dtype)
    with torch.autocast(DEVICE.type, dtype=dtype):
        pixels = normalize(BYTES)
    assert pixels.dtype == dtype and torch.equal(pixels, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (10, 13)])
def test_patches_give_what_the_convolution_gives(bias: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 6, kernel_size=4, stride=4, bias=bias).double().to(DEVICE)
    embedding = PatchEmbedding(convolution)
    assert list(embedding.state_dict()) == list(convolution.state_dict())
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    expected, ours = convolution(pixels), embedding(pixels)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    (wanted,) = torch.autograd.grad(expected.square().sum(), convolution.weight)
    (gradient,) = torch.autograd.grad(ours.square().sum(), embedding.weight)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"stride": 4, "padding": 1}, {"stride": 4, "dilation": 2}]
)
def test_convolutions_that_overlap_or_pad_stay(options: dict[str, Any]) -> None:
    tower: Any = SimpleNamespace(conv1=nn.Conv2d(3, 6, kernel_size=4, **options))
    before = tower.conv1
    replace_patch_convolution(tower)
    assert tower.conv1 is before


def test_a_clip_has_the_patch_embedding() -> None:
    assert isinstance(tiny.encoders()[0].visual.conv1, PatchEmbedding)
