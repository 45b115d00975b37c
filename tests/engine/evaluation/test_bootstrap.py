"""Intervals of metrics on data with known results."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluation.bootstrap import intervals
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
