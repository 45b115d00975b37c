import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dataloaders.transforms import INTERPOLATIONS, MODES, Resize, excess_of_resize, resize_and_crop


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)).copy()


def by_torchvision(frame: np.ndarray, size: int) -> torch.Tensor:
    image = torch.from_numpy(frame).permute(2, 0, 1)
    resized = F.resize(image, [size], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    return F.center_crop(resized, [size, size])


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (64, 64), (50, 40), (97, 301)])
def test_resize_is_clips_preprocessing(height: int, width: int) -> None:
    """Compared with PIL's antialiased bicubic resize, which CLIP's own preprocessing uses."""
    frame = picture(height, width)
    clip = resize_and_crop([frame, frame], 64)
    assert clip.dtype == torch.uint8 and clip.shape == (2, 3, 64, 64)
    scale = 64 / min(height, width)
    size = (int(width * scale + 1e-9), int(height * scale + 1e-9))
    resized = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - 64) / 2), round((size[1] - 64) / 2)
    expected = np.asarray(resized.crop((left, top, left + 64, top + 64)), dtype=np.int16)
    difference = np.abs(clip[0].permute(1, 2, 0).numpy().astype(np.int16) - expected)
    assert difference.max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 900_000), (900_000, 1), (2, 34)])
def test_only_the_middle_of_a_line_is_resized(height: int, width: int) -> None:
    """Resizing the first one whole, to 224 pixels, would take 135 GB."""
    line = np.zeros((height, width, 3), dtype=np.uint8)
    middle = slice((max(height, width) - 8) // 2, (max(height, width) + 8) // 2)
    line[(middle if height > width else slice(None)), (middle if width > height else slice(None))] = 77
    clip = resize_and_crop([line], 64)
    assert clip.shape == (1, 3, 64, 64) and (clip == 77).all()


def test_channels_stay_rgb() -> None:
    red = np.zeros((40, 60, 3), dtype=np.uint8)
    red[..., 0] = 200
    clip = resize_and_crop([red], 32)
    assert (clip[0, 0] == 200).all() and (clip[0, 1:] == 0).all()


def test_frames_of_one_clip_may_differ_in_size() -> None:
    frames = [picture(40, 60), picture(60, 40), picture(32, 32)]
    clip = resize_and_crop(frames, 32)
    for position, frame in enumerate(frames):
        assert torch.equal(clip[position], resize_and_crop([frame], 32)[0])


def test_only_the_part_that_the_centre_needs_is_resized_and_nothing_changes() -> None:
    """Every pixel is that of torchvision, which resizes the whole frame; noise shows a shift of any size."""
    rng = np.random.default_rng(0)
    sides = [1, 2, 50, 95, 97, 223, 224, 225, 240, 255, 256, 270, 341, 342, 360, 426, 454, 455, 456, 602]
    for number in range(150):
        height, width = rng.choice(sides, 2) if number % 2 else rng.integers(1, 500, 2)
        frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if max(height, width) <= 16 * min(height, width):
            for size in (32, 224):
                clip = resize_and_crop([frame], size)[0]
                assert torch.equal(clip, by_torchvision(frame, size)), (height, width, size)


def test_excess_is_that_of_the_shorter_side() -> None:
    assert excess_of_resize(224)(720, 1280) == pytest.approx(720 / 224)
    assert excess_of_resize(224)(900, 448) == 2


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(240, 320), (97, 60), (64, 64)])
def test_every_way_is_that_of_open_clip(height: int, width: int, mode: str, interpolation: str) -> None:
    """Compared with PIL's resize, which rounds each of its two passes."""
    from open_clip.transform import image_transform

    frame = picture(height, width)
    theirs = image_transform(
        64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation=interpolation
    )
    clip = resize_and_crop([frame], Resize(64, mode, interpolation))[0]
    difference = clip.int() - (theirs(Image.fromarray(frame)) * 255).round().int()
    assert difference.abs().max() <= 2
    if mode == "longest" and height != width:
        assert not clip[..., 0, 0].any() and clip[:, 32, 32].any()


def test_a_resize_survives_as_numbers() -> None:
    for mode in MODES:
        for interpolation in INTERPOLATIONS:
            resize = Resize(224, mode, interpolation)
            assert Resize.of_tensor(resize.as_tensor()) == resize


def test_excess_of_borders_is_that_of_the_longer_side() -> None:
    assert excess_of_resize(Resize(100, "longest"))(200, 400) == 4
    assert excess_of_resize(Resize(100, "squash"))(200, 400) == 2
