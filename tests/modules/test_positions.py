import pytest
import torch

from modules.positions import resize_positions
from modules.video_encoder import VideoEncoder


def test_more_positions_are_on_the_lines_between_the_given_ones() -> None:
    given = torch.tensor([[0.0, 10.0], [1.0, 20.0], [2.0, 0.0]])
    longer = resize_positions(given, 5)
    expected = torch.tensor([[0.0, 10.0], [0.5, 15.0], [1.0, 20.0], [1.5, 10.0], [2.0, 0.0]])
    assert torch.equal(longer, expected)
    assert torch.equal(resize_positions(given, 3), given) and resize_positions(given, 3) is not given
    assert torch.equal(resize_positions(given, 2), given[:2])


@pytest.mark.parametrize("count", [78, 100, 248])
def test_kept_positions_stay_and_the_last_stays_the_last(count: int) -> None:
    given = torch.randn(77, 8, generator=torch.Generator().manual_seed(0))
    longer = resize_positions(given, count, kept=20)
    assert longer.shape == (count, 8)
    assert torch.equal(longer[:21], given[:21]) and torch.equal(longer[-1], given[-1])
    assert longer[21:].abs().max() <= given[20:].abs().max()


def test_half_precision_stays_half_precision() -> None:
    assert resize_positions(torch.ones(4, 2, dtype=torch.float16), 9).dtype == torch.float16


def test_clips_of_more_frames_than_published() -> None:
    visual = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 8))
    visual.image_size = 4  # type: ignore[assignment]
    encoder = VideoEncoder(visual, embed_dim=8, use_temp=True, temporal_layers=1, max_positions=64)
    video, frames = encoder(torch.randint(0, 255, (2, 64, 3, 4, 4), dtype=torch.uint8))
    assert video.shape == (2, 8) and frames.shape == (2, 64, 8)
