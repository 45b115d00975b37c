import numpy as np
import pytest
import torch
from PIL import Image

from dataloaders.transforms import FrameAugmentation, resize_and_crop


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)).copy()


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


def test_augmentation_is_a_function_of_the_seed_alone() -> None:
    frames = [picture(48, 64)] * 4
    augment = FrameAugmentation(32)
    first = augment(frames, seed=5)
    torch.rand(7)
    assert torch.equal(first, augment(frames, seed=5))
    assert not torch.equal(first, augment(frames, seed=6))
    assert first.dtype == torch.uint8 and first.shape == (4, 3, 32, 32)


def test_every_frame_is_augmented_by_itself() -> None:
    clip = FrameAugmentation(32)([picture(48, 64)] * 6, seed=1)
    assert len({frame.numpy().tobytes() for frame in clip}) == 6


def test_augmentation_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    FrameAugmentation(16)([picture(20, 20)], seed=99)
    assert torch.equal(torch.rand(3), expected)


def test_augmentation_does_all_that_it_should() -> None:
    """Over many frames: some grey, about as many as p 0.2 says; some mirrored; many of another colour."""
    ramp = np.zeros((32, 32, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 32, dtype=np.uint8)
    ramp[..., 2] = 60
    clip = FrameAugmentation(32)([ramp] * 300, seed=0).float()
    grey = (clip[:, 0] - clip[:, 2]).abs().flatten(1).amax(1) < 1
    mirrored = clip[:, 0, :, :8].mean((1, 2)) > clip[:, 0, :, -8:].mean((1, 2))
    assert 0.12 < grey.float().mean() < 0.3
    assert 0.35 < mirrored.float().mean() < 0.65
    assert clip[:, 2].flatten(1).mean(1).std() > 5
