"""Tiles of the similarity: their sizes, and the scores in them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from engine.evaluation.features import Features
from engine.evaluation.similarity import PAIR_BYTES, MatrixTiles, ScoreTiles, Tiles, default_tile
from modules.heads.hmmc import hmmc_head
from tests.device import DEVICE
from tests.engine.evaluation.naive_ranking import full_matrix, random_features


def numbers(*captions: int) -> torch.Tensor:
    """Captions of a matrix, which is scored on the CPU."""
    return torch.tensor(captions, device="cpu")


@pytest.mark.parametrize(
    ("count", "side"), [(0, 64), (1, 64), (64, 64), (65, 128), (130, 192), (512, 512), (9999, 512)]
)
def test_small_splits_use_smaller_tiles(count: int, side: int) -> None:
    assert MatrixTiles(np.zeros((count, 1))).height == side
    assert MatrixTiles(np.zeros((1, count))).width == side


def test_a_tile_is_never_larger_than_asked_for() -> None:
    tiles = MatrixTiles(np.zeros((70, 10)), tile=(65, 7))
    assert (tiles.height, tiles.width, tiles.num_captions, tiles.num_videos) == (65, 7, 70, 10)
    assert [(t.first, t.last, len(t)) for t in tiles.video_tiles(1, 10)] == [(1, 8, 7), (8, 10, 2)]
    assert list(tiles.video_tiles(3, 3)) == []


@pytest.mark.parametrize(
    ("gibibytes", "side"), [(80, 8192), (40, 4096), (16, 4096), (8, 2048), (1, 1024), (0, 512)]
)
def test_a_gpus_tile_takes_an_eighth_of_its_memory(
    gibibytes: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(total_memory=gibibytes << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert default_tile(torch.device("cuda")) == (side, side)
    assert side == 512 or side**2 * PAIR_BYTES <= memory.total_memory / 8
    assert default_tile(torch.device("cpu")) == (512, 512)


def test_a_tile_of_a_matrix_is_its_block() -> None:
    matrix = np.arange(12.0).reshape(3, 4)
    tiles = MatrixTiles(matrix)
    block = tiles.scores(numbers(2, 0), tiles.video_tile(1, 3))
    assert block.tolist() == [[9.0, 10.0], [1.0, 2.0]] and block.dtype == torch.float64
    small = MatrixTiles(matrix.astype(np.float32))
    assert small.scores(numbers(0), small.video_tile(0, 1)).dtype == small.dtype == torch.float32


@pytest.mark.parametrize("sign", [1, -1])
def test_whole_numbers_up_to_2_to_the_53_are_exact(sign: int) -> None:
    """float64 does not hold 2^53 + 1; one such score among others is enough."""
    matrix = np.array([[sign * 2**53, 0], [1, sign * (2**53 - 1)]])
    tiles = MatrixTiles(matrix)
    videos = tiles.video_tile(0, 2)
    assert tiles.scores(numbers(0, 1), videos).to(torch.int64).tolist() == matrix.tolist()
    matrix[0, 1] = sign * (2**53 + 1)
    with pytest.raises(UserError, match=r"above 2\^53 cannot be ranked exactly"):
        MatrixTiles(matrix).scores(numbers(0, 1), videos)


def test_nan_names_the_caption_and_not_its_row_in_the_tile() -> None:
    matrix = np.zeros((4, 3))
    matrix[3, 2] = np.nan
    tiles = MatrixTiles(matrix)
    assert not tiles.scores(numbers(3), tiles.video_tile(0, 2)).any()
    with pytest.raises(UserError, match="caption 3 is NaN"):
        tiles.scores(numbers(1, 3), tiles.video_tile(0, 3))


@pytest.mark.parametrize("masked", [False, True])
def test_scores_from_features_in_padded_tiles(masked: bool) -> None:
    features = random_features(np.random.default_rng(0), 9, 5, 4)
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[3, 2:] = not masked  # only the second tile of videos has padding
    features = dataclasses.replace(features, frame_mask=mask)
    tiles = ScoreTiles(features, hmmc_head(), logit_scale=100.0, tile=(4, 3))
    assert tiles.dtype == torch.float32 and tiles.device == features.video.device
    expected = full_matrix(features)
    for videos in tiles.video_tiles(0, 5):
        assert videos.rows["video"].shape[0] == 3 and videos.rows["frames"].shape[:2] == (4, 3)
        assert ("frame_mask" in videos.rows) == (masked and videos.first == 3)
        for captions in (torch.arange(4), torch.tensor([8])):
            scores = tiles.scores(captions, videos)
            assert scores.shape == (len(captions), len(videos))
            np.testing.assert_allclose(
                scores.cpu(), expected[captions.numpy(), videos.first : videos.last], rtol=1e-5, atol=1e-4
            )


def test_half_precision_features_are_scored_in_float32_and_float64_stays() -> None:
    for kind, scored in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        features = Features(torch.eye(2, 3, dtype=kind), torch.eye(2, 3, dtype=kind), None)
        tiles = ScoreTiles(features, hmmc_head(top_frames=1), logit_scale=10.0)
        scores = tiles.scores(torch.arange(2), tiles.video_tile(0, 2))
        assert tiles.dtype == scores.dtype == scored
        assert scores.tolist() == [[10.0, 0.0], [0.0, 10.0]]


def test_the_base_has_no_scores() -> None:
    tiles = Tiles((1, 1), (1, 1), device=DEVICE, dtype=torch.float32)
    with pytest.raises(NotImplementedError):
        tiles.video_tile(0, 1)
