"""What is drawn for CHVTT's augmentation, and its crop, beside torchvision's RandomResizedCrop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dataloaders.augmentation import (
    BLUR_SIGMA,
    CROP_AREA,
    CROP_ASPECT,
    FACTORS,
    GREY,
    JITTER,
    JITTERED,
    ORDER,
    SIGMA,
    Crop,
    draw_augmentation,
)
from tests.dataloaders.test_transforms import picture

DRAWS = 20_000


@pytest.fixture(scope="module")
def drawn() -> tuple[list[Crop], np.ndarray]:
    drawn = draw_augmentation(DRAWS, per="frame", rng=np.random.default_rng(0))
    return list(drawn.crops), drawn.colours


def close_to(share: float) -> object:
    """Within four standard deviations of a share of `DRAWS`."""
    return pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DRAWS))


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Kolmogorov and Smirnov's distance from the uniform distribution; 1.95 is passed once in 1000 times."""
    ordered = (np.sort(values) - low) / (high - low)
    assert ordered[0] >= 0 and ordered[-1] <= 1
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    assert distance < 1.95 / math.sqrt(len(ordered))


def test_shares_are_the_published_ones(drawn: tuple[list[Crop], np.ndarray]) -> None:
    crops, colours = drawn
    assert colours[:, JITTERED].mean() == close_to(0.8)
    assert colours[:, GREY].mean() == close_to(0.2)
    assert (colours[:, SIGMA] > 0).mean() == close_to(0.5)
    assert np.mean([crop.mirrored for crop in crops]) == close_to(0.5)


def test_values_are_drawn_uniformly(drawn: tuple[list[Crop], np.ndarray]) -> None:
    crops, colours = drawn
    for column, (low, high) in zip(colours[:, FACTORS].T, JITTER, strict=True):
        assert_uniform(column, low, high)
    assert_uniform(colours[colours[:, SIGMA] > 0, SIGMA], *BLUR_SIGMA)
    assert_uniform(np.array([crop.areas[0] for crop in crops]), *CROP_AREA)
    assert_uniform(np.log([crop.aspects[0] for crop in crops]), *np.log(CROP_ASPECT))
    assert_uniform(np.array([crop.down for crop in crops]), 0, 1)


def test_every_order_of_the_jitter_is_as_likely(drawn: tuple[list[Crop], np.ndarray]) -> None:
    orders, counts = np.unique(drawn[1][:, ORDER], axis=0, return_counts=True)
    assert len(orders) == 24
    assert all(count / DRAWS == close_to(1 / 24) for count in counts)


def test_draws_are_independent(drawn: tuple[list[Crop], np.ndarray]) -> None:
    crops, colours = drawn
    columns = [colours[:, JITTERED], *colours[:, FACTORS].T, colours[:, GREY], colours[:, SIGMA] > 0]
    columns += [np.array([crop.mirrored for crop in crops]), np.array([crop.down for crop in crops])]
    correlation = np.corrcoef(np.stack([column.astype(float) for column in columns]))
    assert np.abs(correlation - np.eye(len(columns))).max() < 4.5 / math.sqrt(DRAWS)


@pytest.mark.parametrize(("height", "width"), [(256, 456), (224, 224), (100, 400)])
def test_boxes_are_distributed_as_torchvisions(
    drawn: tuple[list[Crop], np.ndarray], height: int, width: int
) -> None:
    boxes = np.array([crop.box(height, width) for crop in drawn[0][:6000]])
    theirs = v2.RandomResizedCrop(224, scale=CROP_AREA)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    params = [theirs.make_params([image]) for _ in range(len(boxes))]
    expected = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params])
    assert (boxes >= 0).all() and (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    for ours, other in zip(boxes.T, expected.T, strict=True):
        both = np.union1d(ours, other)
        shares = [np.searchsorted(np.sort(side), both, "right") / len(side) for side in (ours, other)]
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * math.sqrt(2 / len(boxes))


@pytest.mark.parametrize(("height", "width", "box"), [(10, 1000, (0, 493, 10, 13)), (900, 6, (446, 0, 8, 6))])
def test_where_no_try_fits_the_middle_is_taken(height: int, width: int, box: tuple[int, ...]) -> None:
    crop = Crop((0.9, 0.8), (1.0, 1.2), down=0.7, right=0.2, mirrored=False)
    assert crop.box(height, width) == box


def test_a_crop_is_torchvisions_crop_and_resize() -> None:
    frame = picture(97, 141)
    drawn = draw_augmentation(12, per="frame", rng=np.random.default_rng(3))
    clip = torch.empty(12, 3, 64, 64, dtype=torch.uint8)
    drawn.fill(clip, [frame] * 12)
    image = torch.from_numpy(frame).permute(2, 0, 1)
    for crop, ours in zip(drawn.crops, clip, strict=True):
        expected = F.resized_crop(image, *crop.box(97, 141), [64, 64], antialias=True)
        expected = F.horizontal_flip(expected) if crop.mirrored else expected
        assert (ours.int() - expected.int()).abs().max() <= 1
    assert {crop.mirrored for crop in drawn.crops} == {True, False}


def test_a_picture_of_half_the_size_gives_the_same_crop() -> None:
    crop = Crop((0.5,), (1.1,), down=0.4, right=0.6, mirrored=False)
    whole, half = np.array(crop.box(720, 1280)), np.array(crop.box(360, 640))
    assert np.abs(whole / 2 - half).max() <= 1
    assert crop.excess(224)(720, 1280) == min(whole[2:]) / 224


def test_a_clip_may_share_one_draw() -> None:
    shared = draw_augmentation(5, per="clip", rng=np.random.default_rng(1))
    assert len(set(shared.crops)) == 1 and len(np.unique(shared.colours, axis=0)) == 1
    assert shared.colours.shape == (5, shared.colours.shape[1]) and len(shared.crops) == 5
    each = draw_augmentation(5, per="frame", rng=np.random.default_rng(1))
    assert len(set(each.crops)) == 5 and len(np.unique(each.colours, axis=0)) == 5
