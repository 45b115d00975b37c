"""Intervals and paired differences on data with known results."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from engine.evaluation.bootstrap import intervals, paired_bootstrap
from engine.evaluation.metrics import all_metrics
from engine.evaluation.ranking import rank_tiles
from engine.evaluation.similarity import MatrixTiles


def test_the_interval_contains_the_metric_and_depends_on_the_seed_only() -> None:
    rng = np.random.default_rng(0)
    owner = np.arange(80) % 40
    scores = rng.standard_normal((80, 40)) + 2 * (owner[:, None] == np.arange(40))
    rankings = rank_tiles(MatrixTiles(scores), owner)
    values = all_metrics(rankings)
    limits = intervals(rankings, owner, resamples=200)
    for name, (low, high) in limits.items():
        assert low <= values[name] <= high, name
    assert {"t2v/R@1", "t2v/R@50", "v2t/R@10", "v2t_any/R@5", "v2t/MeanR"} <= set(limits)
    assert limits == intervals(rankings, owner, resamples=200)
    assert limits != intervals(rankings, owner, resamples=200, seed=1)


def test_independent_queries_give_the_binomial_width() -> None:
    """300 of 1,000 right: the standard error is sqrt(0.3 * 0.7 / 1000) = 1.45 points."""
    scores = np.zeros((1000, 1000), np.float32)
    right = np.arange(1000) < 300
    scores[np.arange(1000), np.arange(1000)] = np.where(right, 1.0, -1.0)
    low, high = intervals(rank_tiles(MatrixTiles(scores), np.arange(1000)), np.arange(1000))["t2v/R@1"]
    assert high - low == pytest.approx(2 * 1.96 * 1.449, rel=0.1)


def test_captions_that_depend_on_their_video_widen_the_interval() -> None:
    """10 equal captions a video count as one: about sqrt(10) times the width of independent captions."""
    owner = np.repeat(np.arange(100), 10)
    scores = np.zeros((1000, 100), np.float32)
    scores[np.arange(1000), owner] = np.where(owner < 50, 1.0, -1.0)
    low, high = intervals(rank_tiles(MatrixTiles(scores), owner), owner)["t2v/R@1"]
    assert high - low == pytest.approx(2 * 1.96 * 5.0, rel=0.15)


def test_p_is_small_for_a_clear_difference_and_one_for_none() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(1, 30, size=400).astype(float)
    better = paired_bootstrap(a, np.maximum(1, a - 5), resamples=2000)
    assert better["R@5"].value > 0 and better["R@5"].low > 0 and better["R@5"].p < 0.01
    assert better["MeanR"].value < 0 and better["MeanR"].high < 0
    none = paired_bootstrap(a, a, resamples=500)
    assert none["R@1"].value == none["R@1"].low == none["R@1"].high == 0.0 and none["R@1"].p == 1.0


def test_p_is_rarely_small_without_a_difference() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(100), 3)
    small = 0
    for trial in range(200):
        shared = rng.geometric(0.15, size=300)
        a, b = (np.maximum(1, shared + rng.integers(-3, 4, size=300)).astype(float) for _ in range(2))
        small += paired_bootstrap(a, b, clusters=clusters, resamples=300, seed=trial)["R@5"].p <= 0.05
    assert 2 <= small <= 22  # 5% of 200 are 10; three standard errors are 9


def test_queries_without_a_rank_are_left_out_and_lengths_must_agree() -> None:
    a, b = np.array([1.0, np.nan, 2.0]), np.array([1.0, 4.0, 2.0])
    assert paired_bootstrap(a, b, resamples=50)["MeanR"].value == 0.0
    with pytest.raises(UserError, match="3 queries in A, 2 in B"):
        paired_bootstrap(a, b[:2])
    with pytest.raises(UserError, match="no query"):
        paired_bootstrap(a[1:2], b[1:2])
