"""CHVTT's pre-training augmentation: what is drawn for each frame, and its crop. F frames, S side.

Random resized crop (area 0.2-1), colour jitter (0.4, 0.4, 0.4, 0.1) with p 0.8, grey with p 0.2, Gaussian
blur (sigma 0.1-2) with p 0.5, horizontal flip with p 0.5, with the distributions of torchvision's classes.

The worker crops and mirrors while it decodes. Colours and blur are applied to whole batches on the model's
device (colour_augmentation.py), so a clip carries what was drawn for them, float32 [F, `COLOUR_WIDTH`].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataloaders.frame_store.jpeg import Excess
from dataloaders.transforms import as_batch, interpolate

AUGMENT_PER = ("frame", "clip")

CROP_AREA = (0.2, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
_LOG_ASPECT = (math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1]))
_CROP_TRIES = 10
FLIP_SHARE = 0.5

JITTER_SHARE, GREY_SHARE, BLUR_SHARE = 0.8, 0.2, 0.5
# Factors of the four operations of the jitter; the last is added to the hue, in turns of the colour circle.
JITTER = ((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1))
BLUR_SIGMA = (0.1, 2.0)

# The columns of what is drawn for colours. `JITTERED` and `GREY` are 0 or 1, `SIGMA` is 0 without a blur.
# `FACTORS`: brightness, contrast, saturation, hue. `ORDER`: which of these four comes first, second, ...
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTERED, GREY, SIGMA = 0, 1, 2
FACTORS, ORDER = slice(3, 7), slice(7, 11)
COLOUR_WIDTH = 11


@dataclass(frozen=True)
class Crop:
    """The random resized crop of one frame, before the size of the frame is known.

    `areas` and `aspects` are the tries: shares of the picture's area, and width / height. `down` and `right`
    are the place of the crop among the possible ones, 0 to 1. `mirrored`: flip it horizontally.
    """

    areas: tuple[float, ...]
    aspects: tuple[float, ...]
    down: float
    right: float
    mirrored: bool

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) in a picture: the first try that fits, or else the largest centred box
        whose aspect ratio is allowed."""
        for area, aspect in zip(self.areas, self.aspects, strict=True):
            pixels = height * width * area
            across, down = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < across <= width and 0 < down <= height:
                top = min(int(self.down * (height - down + 1)), height - down)
                left = min(int(self.right * (width - across + 1)), width - across)
                return top, left, down, across
        across = min(width, max(1, round(height * CROP_ASPECT[1])))
        down = min(height, max(1, round(width / CROP_ASPECT[0])))
        return (height - down) // 2, (width - across) // 2, down, across

    def excess(self, size: int) -> Excess:
        """How many times larger than `size` the shorter side of the crop is."""
        return lambda height, width: min(self.box(height, width)[2:]) / size

    def fill(self, planes: NDArray[np.uint8], frame: NDArray[np.uint8]) -> None:
        """Crop `frame` [H, W, 3] and resize it (bilinear, antialiased) into `planes` [3, S, S]."""
        top, left, height, width = self.box(*frame.shape[:2])
        part = as_batch(frame[top : top + height, left : left + width])
        resized = interpolate(part, size=planes.shape[1:], mode="bilinear")[0].numpy()
        for source, plane in zip(resized, planes, strict=True):
            if self.mirrored:
                cv2.flip(source, 1, dst=plane)
            else:
                np.copyto(plane, source)


def resize_crop(pictures: Tensor, crop: Sequence[int], size: int) -> Tensor:
    """`Crop.fill` of pictures of one size, uint8 [n, 3, H, W] on any device, with one box: [n, 3, S, S].

    `crop`: (top, left, height, width, mirrored).
    """
    top, left, height, width, mirrored = crop
    part = pictures[..., top : top + height, left : left + width]
    resized = interpolate(part, size=(size, size), mode="bilinear")
    return resized.flip(-1) if mirrored else resized


@dataclass(frozen=True)
class Augmentation:
    """What was drawn for a clip: a crop for each frame, and its colours [F, `COLOUR_WIDTH`]."""

    crops: Sequence[Crop]
    colours: NDArray[np.float32]

    def fill(self, clip: Tensor, frames: Iterable[NDArray[np.uint8]]) -> None:
        """Crop `frames` into `clip`, uint8 [F, 3, S, S]. The colours stay as they are."""
        for planes, crop, frame in zip(clip.numpy(), self.crops, frames, strict=True):
            crop.fill(planes, frame)


def draw_augmentation(count: int, *, per: str, rng: np.random.Generator) -> Augmentation:
    """Draw for a clip of `count` frames: for every frame by itself (`per` "frame"), or once ("clip")."""
    assert per in AUGMENT_PER
    draws = count if per == "frame" else 1
    crops, colours = _draw_crops(draws, rng), _draw_colours(draws, rng)
    return Augmentation(crops * (count // draws), np.repeat(colours, count // draws, axis=0))


def no_colours(count: int) -> Tensor:
    """The colours of `count` frames that stay as they are."""
    return torch.zeros(count, COLOUR_WIDTH)


def _draw_crops(count: int, rng: np.random.Generator) -> list[Crop]:
    areas = rng.uniform(*CROP_AREA, (count, _CROP_TRIES))
    aspects = np.exp(rng.uniform(*_LOG_ASPECT, (count, _CROP_TRIES)))
    places = rng.random((count, 2))
    mirrored = rng.random(count) < FLIP_SHARE
    return [
        Crop(
            tuple(areas[i].tolist()),
            tuple(aspects[i].tolist()),
            down=float(places[i, 0]),
            right=float(places[i, 1]),
            mirrored=bool(mirrored[i]),
        )
        for i in range(count)
    ]


def _draw_colours(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    colours = np.zeros((count, COLOUR_WIDTH), np.float32)
    colours[:, JITTERED] = rng.random(count) < JITTER_SHARE
    lowest, highest = np.asarray(JITTER, dtype=np.float64).T
    colours[:, FACTORS] = lowest + rng.random((count, len(JITTER))) * (highest - lowest)
    colours[:, ORDER] = rng.permuted(np.tile(np.arange(len(JITTER)), (count, 1)), axis=1)
    colours[:, GREY] = rng.random(count) < GREY_SHARE
    sigma = rng.uniform(*BLUR_SIGMA, count)
    colours[:, SIGMA] = np.where(rng.random(count) < BLUR_SHARE, sigma, 0.0)
    return colours
