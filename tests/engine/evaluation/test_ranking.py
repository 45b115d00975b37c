"""Ranks in tiles against a naive count of the full matrix: ties, orders, tile sizes, ranks, odd splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.distributed.world import World
from engine.evaluation import ranking
from engine.evaluation.features import Features
from engine.evaluation.ranking import Rankings, rank
from engine.evaluation.ranks import Ranks
from engine.evaluation.top_k import TopK
from modules.heads.hmmc import hmmc_head
from tests.device import DEVICE
from tests.engine.evaluation.naive_ranking import (
    full_matrix,
    naive_t2v,
    naive_v2t,
    naive_v2t_ap,
    random_features,
    tied_features,
)
from tests.processes import run_ranks

CASES = 200  # of each kind


def ranked(features: Features, owner: np.ndarray, **more: object) -> Rankings:
    return rank(features, owner, head=hmmc_head(), logit_scale=100.0, **more)  # type: ignore[arg-type]


def assert_same(a: Rankings, b: Rankings) -> None:
    for item in dataclasses.fields(Rankings):
        one, two = (
            np.stack(dataclasses.astuple(part)) if isinstance(part, Ranks) else part
            for part in (getattr(a, item.name), getattr(b, item.name))
        )
        np.testing.assert_array_equal(one, two, err_msg=item.name)


@pytest.mark.parametrize("make", [random_features, tied_features])
def test_ranks_equal_a_naive_count(make) -> None:  # type: ignore[no-untyped-def]
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        captions, videos = int(rng.integers(1, 24)), int(rng.integers(1, 9))
        features = make(rng, captions, videos, int(rng.integers(1, 6)) if seed % 3 else None)
        owner = rng.integers(0, videos, size=captions)  # several captions a video or none, in any order
        tile = (512, 512) if seed % 2 else (int(rng.integers(1, 9)), int(rng.integers(1, 5)))
        rankings = ranked(features, owner, tile=tile)
        scores = full_matrix(features)
        np.testing.assert_allclose(rankings.t2v.expected, naive_t2v(scores, owner))
        np.testing.assert_allclose(rankings.v2t.expected, naive_v2t(scores, owner))
        np.testing.assert_allclose(rankings.v2t_any.expected, naive_v2t(scores, owner, any_caption=True))
        np.testing.assert_allclose(rankings.v2t_ap, naive_v2t_ap(scores, owner))
        np.testing.assert_allclose(
            rankings.t2v_positive, scores[np.arange(captions), owner], rtol=1e-5, atol=1e-4
        )


def test_the_top_ten_equal_those_of_the_sorted_matrix() -> None:
    rng = np.random.default_rng(5)
    features = random_features(rng, 60, 25, 4)
    owner = rng.integers(0, 25, size=60)
    rankings = ranked(features, owner, tile=(16, 7))
    scores = full_matrix(features)
    np.testing.assert_array_equal(rankings.t2v_top, np.argsort(-scores, axis=1)[:, :10])
    np.testing.assert_array_equal(rankings.v2t_top, np.argsort(-scores.T, axis=1)[:, :10])
    np.testing.assert_allclose(rankings.t2v_top_scores, -np.sort(-scores, axis=1)[:, :10], atol=1e-4)


def test_fewer_than_ten_candidates_leave_the_rest_empty() -> None:
    rankings = ranked(random_features(np.random.default_rng(0), 3, 2, None), np.array([0, 1, 1]))
    assert (rankings.t2v_top[:, 2:] == -1).all() and (rankings.t2v_top[:, :2] >= 0).all()
    assert (rankings.v2t_top_scores[:, 3:] == -np.inf).all()


def test_one_caption_and_one_video() -> None:
    rankings = ranked(random_features(np.random.default_rng(0), 1, 1, 2), np.array([0]))
    for ranks in (rankings.t2v, rankings.v2t, rankings.v2t_any):
        assert ranks.expected.tolist() == [1.0]


def test_a_constant_matrix_is_chance() -> None:
    ones = torch.ones(6, 4)
    rankings = ranked(Features(ones, ones, ones[:, None].repeat(1, 3, 1)), np.arange(6))
    for ranks in (rankings.t2v, rankings.v2t, rankings.v2t_any):
        np.testing.assert_array_equal(ranks.expected, np.full(6, 3.5))


def test_more_top_frames_than_frames_use_all_frames() -> None:
    rng = np.random.default_rng(2)
    features = random_features(rng, 8, 4, 2)
    features = dataclasses.replace(features, frame_mask=None)
    few = rank(features, np.arange(8) % 4, head=hmmc_head(top_frames=99), logit_scale=1.0)
    np.testing.assert_allclose(
        few.t2v.expected, naive_t2v(full_matrix(features, top_frames=2), np.arange(8) % 4)
    )


def test_a_caption_set_may_span_several_tiles() -> None:
    rng = np.random.default_rng(3)
    features = tied_features(rng, 40, 3, 2)
    owner = np.sort(np.r_[np.zeros(35, int), 1, 1, 2, 2, 2])
    rankings = ranked(features, owner, tile=(8, 2))
    np.testing.assert_allclose(rankings.v2t.expected, naive_v2t(full_matrix(features), owner))


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_features_tie_at_any_position(threads: int) -> None:
    """1,000 videos over several tiles, half of them copies: their scores are equal to the last bit."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(0)
        video, frames = (
            torch.randn(500, 64, generator=generator),
            torch.randn(500, 3, 64, generator=generator),
        )
        text = torch.randn(1000, 64, generator=generator)
        order = torch.randperm(1000, generator=generator)
        features = Features(text, video.repeat(2, 1)[order], frames.repeat(2, 1, 1)[order])
        rankings = ranked(features, np.arange(1000))
    finally:
        torch.set_num_threads(threads_before)
    # Each video has one copy, so every rank is halfway between two numbers.
    np.testing.assert_array_equal(rankings.t2v.expected % 1, np.full(1000, 0.5))


def test_shuffled_captions_and_videos_keep_their_ranks() -> None:
    rng = np.random.default_rng(8)
    features = random_features(rng, 700, 600, 3)
    owner = rng.integers(0, 600, size=700)
    original = ranked(features, owner)
    captions, videos = rng.permutation(700), rng.permutation(600)
    new_number = np.argsort(videos)  # of each video
    shuffled_features = Features(
        features.text[captions],
        features.video[videos],
        features.frames[videos],  # type: ignore[index]
        None if features.frame_mask is None else features.frame_mask[videos],
    )
    shuffled = ranked(shuffled_features, new_number[owner[captions]])
    np.testing.assert_array_equal(shuffled.t2v.expected, original.t2v.expected[captions])
    for name in ("v2t", "v2t_any"):
        one, two = (getattr(rankings, name).expected for rankings in (shuffled, original))
        np.testing.assert_allclose(one, two[videos], rtol=1e-12)
    np.testing.assert_allclose(shuffled.v2t_ap, original.v2t_ap[videos], rtol=1e-12)
    np.testing.assert_array_equal(videos[shuffled.t2v_top], original.t2v_top[captions])


@pytest.mark.parametrize("tile", [(1, 1), (7, 7), (1000, 1000)])
def test_tile_sizes_do_not_change_the_ranks(tile: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    features = tied_features(rng, 90, 40, 3)  # exact arithmetic, many ties
    owner = rng.integers(0, 40, size=90)
    assert_same(ranked(features, owner, tile=tile), ranked(features, owner))


@pytest.mark.parametrize("make", [random_features, tied_features])
@pytest.mark.parametrize("tile", [(64, 64), (512, 512)])
def test_a_gpus_way_to_the_best_candidates_gives_the_same(
    make: Callable[..., Features], tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(8)
    features, owner = make(rng, 300, 90, 4), rng.integers(0, 90, size=300)
    expected = ranked(features, owner, tile=tile)

    class OnAGpu(TopK):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.in_passes = True

    monkeypatch.setattr(ranking, "TopK", OnAGpu)
    assert_same(ranked(features, owner, tile=tile), expected)


def _rank_of(number: int, size: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=size)
    rng = np.random.default_rng(11)
    features = random_features(rng, 150, 3 if size == 4 else 70, 3)
    owner = rng.integers(0, len(features.video), size=150)
    world = World(number, size, DEVICE)
    assert_same(ranked(features, owner, world=world, tile=(32, 16)), ranked(features, owner, tile=(32, 16)))
    Path(folder, f"{number}.ok").touch()
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("size", [2, 4])
def test_several_ranks_give_the_result_of_one_on_every_rank(size: int, tmp_path: Path) -> None:
    """With four ranks and three videos, one rank has no video."""
    run_ranks(_rank_of, size, size, str(tmp_path / "store"), str(tmp_path))
    assert len(list(tmp_path.glob("*.ok"))) == size
