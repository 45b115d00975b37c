"""Expected ranks and recalls against all orders of the tied candidates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.evaluation.ranking import rank_tiles
from engine.evaluation.ranks import Ranks, single_ranks
from engine.evaluation.similarity import MatrixTiles


@pytest.mark.parametrize(
    ("above", "tied", "right"), [(0, 0, 1), (3, 0, 1), (0, 4, 1), (2, 3, 1), (1, 3, 2), (0, 2, 4), (2, 0, 3)]
)
def test_all_orders_of_the_tied_candidates(above: int, tied: int, right: int) -> None:
    orders = itertools.permutations([False] * tied + [True] * right)
    found = np.array([above + order.index(True) + 1 for order in orders])
    ranks = Ranks(*(np.array([float(value)]) for value in (above, tied, right)))
    assert ranks.expected[0] == pytest.approx(found.mean())
    for k in range(above + tied + right + 3):
        assert ranks.within(k)[0] == pytest.approx((found <= k).mean()), k


def _hits(scores: np.ndarray, right: np.ndarray, places: np.ndarray, k: int) -> np.ndarray:
    """Whether a right candidate of each query is among the first k, if `places` decides between ties."""
    order = np.lexsort((np.broadcast_to(places, scores.shape), -scores), axis=1)
    return np.take_along_axis(right, order, axis=1)[:, :k].any(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_recalls_of_a_matrix_are_the_mean_over_all_orders(seed: int) -> None:
    """6 captions, 5 videos, 3 different scores. Ties are broken by each order of the candidates in turn."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, size=(6, 5)).astype(np.float32)
    owner = np.r_[np.arange(4), rng.integers(0, 4, size=2)]  # the last video has no caption
    right = owner[:, None] == np.arange(5)
    rankings = rank_tiles(MatrixTiles(scores), owner)
    best = np.array([scores[owner == v].max(axis=0) for v in range(4)])  # [sets, videos]
    for k in (1, 2, 3, 5):
        by_videos = [_hits(scores, right, np.array(p), k) for p in itertools.permutations(range(5))]
        by_captions = [_hits(scores.T, right.T, np.array(p), k) for p in itertools.permutations(range(6))]
        by_sets = [
            _hits(best.T, np.eye(5, 4, dtype=bool), np.array(p), k) for p in itertools.permutations(range(4))
        ]
        np.testing.assert_allclose(rankings.t2v.within(k), np.mean(by_videos, axis=0))
        np.testing.assert_allclose(rankings.v2t_any.within(k)[:4], np.mean(by_captions, axis=0)[:4])
        np.testing.assert_allclose(rankings.v2t.within(k)[:4], np.mean(by_sets, axis=0)[:4])
        assert np.isnan(rankings.v2t.within(k)[4]) and np.isnan(rankings.v2t_any.within(k)[4])


def test_without_ties_a_recall_is_exactly_0_or_1() -> None:
    ranks = single_ranks(np.array([1.0, 2.0, 5.0, 6.0, np.nan]))
    np.testing.assert_array_equal(ranks.within(5), [1.0, 1.0, 1.0, 0.0, np.nan])
    np.testing.assert_array_equal(ranks.ranked.expected, [1.0, 2.0, 5.0, 6.0])


def test_an_expected_rank_and_its_ties_give_back_what_decided_it() -> None:
    """Three wrong candidates tie with the right one: its rank is 1 to 4, on average 2.5."""
    ranks = single_ranks(np.array([2.5, np.nan, 7.0]), np.array([3.0, 0.0, 2.0]))
    np.testing.assert_array_equal(ranks.above, [0.0, np.nan, 5.0])
    np.testing.assert_array_equal(ranks.tied, [3.0, np.nan, 2.0])
    np.testing.assert_array_equal(ranks.right, [1.0, np.nan, 1.0])
    np.testing.assert_array_equal(ranks.expected, [2.5, np.nan, 7.0])
    np.testing.assert_allclose(ranks.within(3), [0.75, np.nan, 0.0])


def test_no_queries_have_no_recalls() -> None:
    assert single_ranks(np.empty(0)).within(1).shape == (0,)
