"""Colour jitter, grey and Gaussian blur for many frames at once, on any device. N frames, S side.

What each frame gets was drawn before (augmentation.py) and is known to the CPU, so the CPU chooses subsets of
frames and never waits for the device. Values are those of torchvision's functions, which round after every
operation of the jitter; here they are rounded once after the jitter, after the grey and after the blur.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.device_copies import on_device
from dataloaders.augmentation import (
    CONTRAST,
    FACTORS,
    GREY,
    HUE,
    JITTERED,
    ORDER,
    SATURATION,
    SIGMA,
)

LUMA = (0.2989, 0.587, 0.114)
# Covers three standard deviations of the strongest blur (sigma 2) on both sides.
BLUR_KERNEL = 13
_RADIUS = BLUR_KERNEL // 2
_BLOCK = 32
# Frames at once on a GPU: 154 MB of float32 at 224 pixels.
_GPU_CHUNK = 256


def augment_colours(frames: Tensor, colours: Tensor) -> None:
    """Change `frames`, uint8 [..., 3, S, S] on any device, as `colours` [..., C] on the CPU says.

    The host does not wait for the device.
    """
    assert frames.dtype == torch.uint8 and frames.is_contiguous() and colours.device.type == "cpu"
    frames = frames.view(-1, *frames.shape[-3:])
    drawn = colours.reshape(len(frames), -1)
    order, factors = drawn[:, ORDER].long(), drawn[:, FACTORS]
    maps = _affine_maps(order, factors)
    for hue_at in range(4):
        chosen = (drawn[:, JITTERED] > 0) & (order[:, hue_at] == HUE)
        _change(frames, chosen, _jitter_with_hue_at(hue_at), maps, 6 * factors[:, HUE])
    _change(frames, drawn[:, GREY] > 0, _grey)
    _change(frames, drawn[:, SIGMA] > 0, _blur, _gaussian(drawn[:, SIGMA]))


@torch.no_grad()
def _change(frames: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *settings: Tensor) -> None:
    """Apply `operation(pixels float32 [n, 3, S, S], settings [n, ...], ...)` to the frames that are `chosen`
    [N]. It may change the pixels in place."""
    device = frames.device
    numbers = chosen.nonzero().flatten()
    if one_by_one(device):
        for number in numbers.tolist():
            one = slice(number, number + 1)
            pixels = operation(frames[one].float(), *(setting[one] for setting in settings)).round_()
            # torch casts float to uint8 three times slower than by way of int32.
            frames[one] = pixels.to(torch.int32)
        return
    for part in numbers.split(_GPU_CHUNK) if len(numbers) else ():
        places = on_device(part, device)
        given = [on_device(setting[part], device) for setting in settings]
        pixels = operation(frames.index_select(0, places).float(), *given).round_()
        frames.index_copy_(0, places, pixels.to(torch.uint8))


def one_by_one(device: torch.device) -> bool:
    """Whether frames are changed one at a time: on a CPU, whose cache then holds them."""
    return device.type == "cpu"


# The jitter: three affine maps of the colours of a pixel and a shift of the hue, in the order drawn.


def _jitter_with_hue_at(hue_at: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The jitter of frames that shift their hue at this place of their order."""

    def jitter(pixels: Tensor, maps: Tensor, shift: Tensor) -> Tensor:
        colours = pixels.flatten(2)
        for at in range(4):
            if at == hue_at:
                colours = _shift_hue(colours, shift)
            else:
                of_pixels, of_mean = maps[:, at, 0], maps[:, at, 1]
                offset = of_mean @ colours.mean(-1, keepdim=True)
                colours = torch.baddbmm(offset, of_pixels, colours).clamp_(0, 255)
        return colours.view_as(pixels)

    return jitter


def _affine_maps(order: Tensor, factors: Tensor) -> Tensor:
    """[N, 4, 2, 3, 3]: for each place of the `order` [N, 4], the matrix of a pixel's colour and that of the
    frame's mean colour. `factors` [N, 4].

    An operation blends a frame with black (brightness), with its mean grey (contrast) or with its own grey
    (saturation).
    """
    factor = factors.gather(1, order)[:, :, None, None]
    grey = (1 - factor) * torch.tensor(LUMA)
    of_pixels = factor * torch.eye(3) + (order == SATURATION)[:, :, None, None] * grey
    of_mean = (order == CONTRAST)[:, :, None, None] * grey.expand_as(of_pixels)
    return torch.stack([of_pixels, of_mean], dim=2)


def _shift_hue(colours: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of `colours` [n, 3, P] by `shift` [n], in sixths of the circle; at most three.

    The hexagonal hue of HSV: the greatest and the smallest channel of a pixel keep their values. With the
    channels stretched to 0..1, the distance of the hue from red is 1 - red + green + blue, at most three, and
    its side is that of the greater one of green and blue. A channel is 1 within a distance of one from its
    own hue (red 0, green 2, blue -2), 0 beyond two, and linear between.
    """
    red, green, blue = colours.unbind(1)
    least = torch.minimum(torch.minimum(red, green), blue)
    spread = torch.maximum(torch.maximum(red, green), blue).sub_(least)
    difference = green - blue
    distance = (green + blue).sub_(red).sub_(least).div_(spread.clamp(min=1e-3)).add_(1)
    hue = distance.copysign_(difference).add_(shift[:, None])
    own = _constant((0.0, -2.0, 2.0), colours.device)[:, None]
    # On a circle of six, the distance d of two points, which are |y| apart, is 3 - ||y| - 3|.
    near = (hue[:, None] + own).abs_().sub_(3).abs_().clamp_(1, 2).sub_(1)
    return near.mul_(spread[:, None]).add_(least[:, None])


def _grey(pixels: Tensor) -> Tensor:
    weights = _constant(LUMA, pixels.device)
    return (pixels * weights[:, None, None]).sum(1, keepdim=True).expand_as(pixels).clone()


# The blur: along each axis a product with the same band matrix for every block of 32 pixels.


def _gaussian(sigma: Tensor) -> Tensor:
    """The kernel's weights [N, 13] for `sigma` [N]; anything where it is 0."""
    at = torch.arange(BLUR_KERNEL) - _RADIUS
    weights = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3)[:, None]) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _blur(pixels: Tensor, weights: Tensor) -> Tensor:
    """Gaussian blur with reflected edges; `weights` [n, 13]."""
    bands = (weights @ _shifts(pixels.device)).view(-1, _BLOCK, _BLOCK + 2 * _RADIUS)
    across = _blur_rows(pixels, bands)
    return _blur_rows(across.transpose(2, 3), bands).transpose(2, 3)


def _blur_rows(pixels: Tensor, bands: Tensor) -> Tensor:
    count, channels, height, width = pixels.shape
    padded = F.pad(pixels, (_RADIUS, _RADIUS, 0, 0), mode="reflect")
    rest = -width % _BLOCK
    if rest:
        padded = F.pad(padded, (0, rest))
    blocks = padded.unfold(-1, _BLOCK + 2 * _RADIUS, _BLOCK).reshape(count, -1, bands.shape[-1])
    return (blocks @ bands.mT).view(count, channels, height, -1)[..., :width]


@functools.lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return on_device(torch.tensor(values), device)


@functools.lru_cache(maxsize=16)
def _shifts(device: torch.device) -> Tensor:
    """[13, 32 * 44]: the band matrix of each of the kernel's weights, flattened."""
    shifts = torch.zeros(BLUR_KERNEL, _BLOCK, _BLOCK + 2 * _RADIUS)
    for offset in range(BLUR_KERNEL):
        shifts[offset, range(_BLOCK), range(offset, offset + _BLOCK)] = 1
    return on_device(shifts.flatten(1), device)
