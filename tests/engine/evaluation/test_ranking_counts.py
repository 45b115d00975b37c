"""The order of captions by video, and the types that counts are kept in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.evaluation.ranking_counts import CaptionOrder, RankingCounts


def test_captions_of_a_video_keep_their_order() -> None:
    owner = np.random.default_rng(0).integers(0, 3, size=400).astype(np.uint16)
    order = CaptionOrder(owner, num_videos=4)
    assert order.videos.dtype == np.int64 and len(order) == 400
    for video in range(4):
        own = order.captions[order.starts[video] : order.starts[video + 1]]
        np.testing.assert_array_equal(own, np.flatnonzero(owner == video))
        assert order.counts[video] == len(own)
    np.testing.assert_array_equal(order.unsort(order.videos), owner)


def test_no_captions() -> None:
    order = CaptionOrder(np.empty(0, dtype=np.int64), num_videos=2)
    assert len(order) == 0 and order.starts.tolist() == [0, 0, 0]
    assert order.by_video(np.empty(0), 0, 2).shape == (1, 2)


@pytest.mark.parametrize(
    "owner", [[[0, 1]], [0, 2], [0, -1]], ids=["two dimensions", "too large", "negative"]
)
def test_numbers_of_videos_that_cannot_be(owner: list[object]) -> None:
    with pytest.raises(AssertionError):
        CaptionOrder(np.array(owner), num_videos=2)


def test_a_table_is_as_high_as_it_must_be_and_sorted() -> None:
    order = CaptionOrder(np.array([0, 2, 2]), num_videos=3)
    table = order.by_video(np.array([1.0, 2.0, 3.0]), 0, 3)
    np.testing.assert_array_equal(table, [[1.0, np.nan, 3.0], [np.nan, np.nan, 2.0]])
    assert order.by_video(np.array([1.0]), 0, 1).shape == (1, 1)


def test_counts_are_exact_beyond_the_numbers_of_float32() -> None:
    order = CaptionOrder(np.array([0, 1]), num_videos=2)
    counts = RankingCounts(order, np.array([0.5, 0.5]), first=0, last=2, like=torch.zeros(1))
    kept = (counts.above, counts.equal, counts.sets_above, counts.sets_equal)
    assert {part.dtype for part in kept} == {torch.float64}
