"""Colours and blur of many frames at once, beside torchvision's functions with the same parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from dataloaders import colour_augmentation
from dataloaders.augmentation import (
    BRIGHTNESS,
    COLOUR_WIDTH,
    CONTRAST,
    FACTORS,
    GREY,
    HUE,
    JITTERED,
    ORDER,
    SATURATION,
    SIGMA,
    draw_augmentation,
    no_colours,
)
from dataloaders.colour_augmentation import BLUR_KERNEL, augment_colours
from tests.dataloaders.test_transforms import picture

ADJUST: dict[int, Callable[[torch.Tensor, float], torch.Tensor]] = {
    BRIGHTNESS: F.adjust_brightness,
    CONTRAST: F.adjust_contrast,
    SATURATION: F.adjust_saturation,
    HUE: F.adjust_hue,
}
NEUTRAL = (1.0, 1.0, 1.0, 0.0)


def clip(count: int = 3, size: int = 48) -> torch.Tensor:
    """Smooth pictures, one of noise and one with all greys, whose channels are equal."""
    noise = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    greys = np.repeat(np.arange(size * size, dtype=np.uint8).reshape(size, size, 1), 3, axis=2)
    frames = [picture(size, size, seed=seed) for seed in range(count - 2)]
    return torch.from_numpy(np.stack([*frames, noise, greys])).permute(0, 3, 1, 2).contiguous()


def settings(count: int) -> torch.Tensor:
    """Jitter that changes nothing, in the order of the names, and nothing else."""
    drawn = torch.zeros(count, COLOUR_WIDTH)
    drawn[:, FACTORS] = torch.tensor(NEUTRAL)
    drawn[:, ORDER] = torch.arange(4.0)
    drawn[:, JITTERED] = 1
    return drawn


def changed(frames: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    frames = frames.clone()
    augment_colours(frames, drawn)
    return frames


def difference(first: torch.Tensor, second: torch.Tensor) -> int:
    return int((first.int() - second.int()).abs().max())


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
@pytest.mark.parametrize(
    ("operation", "factor"),
    [
        *(
            (operation, factor)
            for operation in (BRIGHTNESS, CONTRAST, SATURATION)
            for factor in (0.6, 1.0, 1.37)
        ),
        *((HUE, turns) for turns in (-0.1, -0.03, 0.0, 0.07, 0.1)),
    ],
)
def test_each_operation_of_the_jitter_is_torchvisions(
    operation: int, factor: float, order: tuple[int, ...]
) -> None:
    frames = clip()
    drawn = settings(len(frames))
    drawn[:, FACTORS][:, operation] = factor
    drawn[:, ORDER] = torch.tensor(order, dtype=torch.float32)
    expected = torch.stack([ADJUST[operation](frame, factor) for frame in frames])
    assert difference(changed(frames, drawn), expected) <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
@pytest.mark.parametrize("size", [16, 32, 50, 64])
def test_blur_is_torchvisions(sigma: float, size: int) -> None:
    frames, drawn = clip(size=size), no_colours(3)
    drawn[:, SIGMA] = sigma
    expected = F.gaussian_blur(frames, [BLUR_KERNEL, BLUR_KERNEL], [sigma, sigma])
    assert difference(changed(frames, drawn), expected) <= 1


def test_grey_is_torchvisions() -> None:
    frames, drawn = clip(), no_colours(3)
    drawn[:, GREY] = 1
    assert difference(changed(frames, drawn), F.rgb_to_grayscale(frames, 3)) <= 1


def by_torchvision(frame: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """One frame through torchvision's functions, in floats, so that nothing is rounded on the way."""
    frame = frame.double() / 255
    for operation in drawn[ORDER].long().tolist() if drawn[JITTERED] else ():
        frame = ADJUST[operation](frame, float(drawn[FACTORS][operation]))
    if drawn[GREY]:
        frame = F.rgb_to_grayscale(frame, 3)
    if drawn[SIGMA]:
        frame = F.gaussian_blur(frame, [BLUR_KERNEL, BLUR_KERNEL], [float(drawn[SIGMA])] * 2)
    return (frame * 255).round()


def test_everything_together_in_the_order_drawn() -> None:
    """60 frames: each order of the jitter comes about twice."""
    frames = clip(60)
    drawn = torch.from_numpy(draw_augmentation(60, per="frame", rng=np.random.default_rng(0)).colours)
    expected = torch.stack([by_torchvision(frame, row) for frame, row in zip(frames, drawn, strict=True)])
    assert difference(changed(frames, drawn), expected) <= 1


def test_frames_of_which_nothing_is_drawn_stay_as_they_are() -> None:
    frames = clip(6)
    drawn = torch.from_numpy(draw_augmentation(6, per="frame", rng=np.random.default_rng(0)).colours).clone()
    drawn[:, JITTERED] = 1
    drawn[::2] = 0
    after = changed(frames, drawn)
    assert torch.equal(after[::2], frames[::2])
    assert all(not torch.equal(after[i], frames[i]) for i in (1, 3))
    assert torch.equal(changed(frames, no_colours(6)), frames)


def test_a_frame_does_not_depend_on_the_others() -> None:
    frames = clip(8)
    drawn = torch.from_numpy(draw_augmentation(8, per="frame", rng=np.random.default_rng(2)).colours)
    together = changed(frames, drawn)
    for number in range(8):
        one = slice(number, number + 1)
        assert torch.equal(changed(frames[one], drawn[one]), together[one])


def test_clips_of_a_batch_and_the_way_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of frames, as on a GPU, give what frames one by one give."""
    frames = clip(12)
    drawn = torch.from_numpy(draw_augmentation(12, per="frame", rng=np.random.default_rng(4)).colours)
    expected = changed(frames, drawn)
    monkeypatch.setattr(colour_augmentation, "one_by_one", lambda device: False)
    monkeypatch.setattr(colour_augmentation, "_GPU_CHUNK", 2)
    batch = frames.clone().view(3, 4, *frames.shape[1:])
    augment_colours(batch, drawn.view(3, 4, -1))
    assert difference(batch.flatten(0, 1), expected) <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_and_the_cpu_does_not_wait_for_it() -> None:
    frames = clip(24, 224)
    drawn = torch.from_numpy(draw_augmentation(24, per="frame", rng=np.random.default_rng(5)).colours)
    on_gpu = frames.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment_colours(on_gpu, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert difference(on_gpu.cpu(), changed(frames, drawn)) <= 1
