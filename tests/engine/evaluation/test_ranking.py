"""Blockwise ranks against a naive count of the whole matrix; ties, orders, tiles, ranks and odd sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.distributed.world import World
from engine.evaluation.features import Features
from engine.evaluation.ranking import Rankings, rank
from tests.engine.evaluation.naive_ranking import (
    naive_t2v,
    naive_v2t,
    naive_v2t_ap,
    random_features,
    tied_features,
    whole_matrix,
)
from tests.processes import run_ranks

CASES = 200  # of each kind


def ranked(made: Features, owner: np.ndarray, **more: object) -> Rankings:
    return rank(made, owner, top_frames=3, logit_scale=100.0, **more)  # type: ignore[arg-type]


def same(a: Rankings, b: Rankings, *, but: tuple[str, ...] = ()) -> None:
    for item in dataclasses.fields(Rankings):
        if item.name not in but:
            np.testing.assert_array_equal(getattr(a, item.name), getattr(b, item.name), err_msg=item.name)


@pytest.mark.parametrize("make", [random_features, tied_features])
def test_ranks_equal_a_naive_count(make) -> None:  # type: ignore[no-untyped-def]
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        captions, videos = int(rng.integers(1, 24)), int(rng.integers(1, 9))
        made = make(rng, captions, videos, int(rng.integers(1, 6)) if seed % 3 else None)
        owner = rng.integers(0, videos, size=captions)  # several captions, in any order, and videos with none
        tile = (512, 512) if seed % 2 else (int(rng.integers(1, 9)), int(rng.integers(1, 5)))
        found = ranked(made, owner, tile=tile)
        scores = whole_matrix(made)
        np.testing.assert_allclose(found.t2v, naive_t2v(scores, owner))
        np.testing.assert_allclose(found.v2t, naive_v2t(scores, owner))
        np.testing.assert_allclose(found.v2t_any, naive_v2t(scores, owner, any_caption=True))
        np.testing.assert_allclose(found.v2t_ap, naive_v2t_ap(scores, owner))
        np.testing.assert_allclose(found.t2v_own, scores[np.arange(captions), owner], rtol=1e-5, atol=1e-4)


def test_the_best_ten_are_those_of_the_sorted_matrix() -> None:
    rng = np.random.default_rng(5)
    made = random_features(rng, 60, 25, 4)
    owner = rng.integers(0, 25, size=60)
    found = ranked(made, owner, tile=(16, 7))
    scores = whole_matrix(made)
    np.testing.assert_array_equal(found.t2v_top, np.argsort(-scores, axis=1)[:, :10])
    np.testing.assert_array_equal(found.v2t_top, np.argsort(-scores.T, axis=1)[:, :10])
    np.testing.assert_allclose(found.t2v_top_scores, -np.sort(-scores, axis=1)[:, :10], atol=1e-4)


def test_fewer_candidates_than_places_leave_places_empty() -> None:
    found = ranked(random_features(np.random.default_rng(0), 3, 2, None), np.array([0, 1, 1]))
    assert (found.t2v_top[:, 2:] == -1).all() and (found.t2v_top[:, :2] >= 0).all()
    assert (found.v2t_top_scores[:, 3:] == -np.inf).all()


def test_one_caption_and_one_video() -> None:
    found = ranked(random_features(np.random.default_rng(0), 1, 1, 2), np.array([0]))
    assert found.t2v.tolist() == found.v2t.tolist() == found.v2t_any.tolist() == [1.0]


def test_a_constant_matrix_is_chance() -> None:
    ones = torch.ones(6, 4)
    found = ranked(Features(ones, ones, ones[:, None].repeat(1, 3, 1)), np.arange(6))
    for ranks in (found.t2v, found.v2t, found.v2t_any):
        np.testing.assert_array_equal(ranks, np.full(6, 3.5))


def test_more_top_frames_than_real_frames_take_all_of_them() -> None:
    rng = np.random.default_rng(2)
    made = random_features(rng, 8, 4, 2)
    made = dataclasses.replace(made, frame_mask=None)
    few = rank(made, np.arange(8) % 4, top_frames=99, logit_scale=1.0)
    np.testing.assert_allclose(few.t2v, naive_t2v(whole_matrix(made, top_frames=2), np.arange(8) % 4))


def test_a_video_with_more_captions_than_a_tile_is_one_set() -> None:
    rng = np.random.default_rng(3)
    made = tied_features(rng, 40, 3, 2)
    owner = np.sort(np.r_[np.zeros(35, int), 1, 1, 2, 2, 2])
    found = ranked(made, owner, tile=(8, 2))
    np.testing.assert_allclose(found.v2t, naive_v2t(whole_matrix(made), owner))


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_features_tie_wherever_they_stand(threads: int) -> None:
    """1,000 videos of which half are copies, over several tiles: bit-equal scores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(0)
        video, frames = (
            torch.randn(500, 64, generator=generator),
            torch.randn(500, 3, 64, generator=generator),
        )
        text = torch.randn(1000, 64, generator=generator)
        order = torch.randperm(1000, generator=generator)
        made = Features(text, video.repeat(2, 1)[order], frames.repeat(2, 1, 1)[order])
        found = ranked(made, np.arange(1000))
    finally:
        torch.set_num_threads(before)
    # Each video has one copy, so that every rank lies half between two places.
    np.testing.assert_array_equal(found.t2v % 1, np.full(1000, 0.5))


def test_shuffled_captions_and_videos_keep_their_ranks() -> None:
    rng = np.random.default_rng(8)
    made = random_features(rng, 700, 600, 3)
    owner = rng.integers(0, 600, size=700)
    straight = ranked(made, owner)
    captions, videos = rng.permutation(700), rng.permutation(600)
    where = np.argsort(videos)  # new number of each old video
    moved = Features(
        made.text[captions],
        made.video[videos],
        made.frames[videos],  # type: ignore[index]
        None if made.frame_mask is None else made.frame_mask[videos],
    )
    shuffled = ranked(moved, where[owner[captions]])
    np.testing.assert_array_equal(shuffled.t2v, straight.t2v[captions])
    for name in ("v2t", "v2t_any", "v2t_ap"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(straight, name)[videos], rtol=1e-12)
    np.testing.assert_array_equal(videos[shuffled.t2v_top], straight.t2v_top[captions])


@pytest.mark.parametrize("tile", [(1, 1), (7, 7), (1000, 1000)])
def test_the_tile_does_not_matter(tile: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    made = tied_features(rng, 90, 40, 3)  # exact arithmetic: ties in all forms
    owner = rng.integers(0, 40, size=90)
    same(ranked(made, owner, tile=tile), ranked(made, owner))


def _rank_of(number: int, size: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=size)
    rng = np.random.default_rng(11)
    made = random_features(rng, 150, 3 if size == 4 else 70, 3)
    owner = rng.integers(0, len(made.video), size=150)
    world = World(number, size, torch.device("cpu"))
    same(ranked(made, owner, world=world, tile=(32, 16)), ranked(made, owner, tile=(32, 16)))
    Path(folder, f"{number}.ok").touch()
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_the_work_and_all_have_the_result(size: int, tmp_path: Path) -> None:
    """Of the four, one has no video at all."""
    run_ranks(_rank_of, size, size, str(tmp_path / "store"), str(tmp_path))
    assert len(list(tmp_path.glob("*.ok"))) == size
