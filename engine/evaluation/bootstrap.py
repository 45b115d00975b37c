"""How sure the figures are: percentile bootstrap over queries (Efron and Tibshirani 1993, chapter 13).

C clusters, Q queries, R resamples, S statistics.

The captions of one video are not independent queries: they rise and fall with their video. So videos are
drawn, each with all its captions, and both directions are computed from the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from engine.evaluation.metrics import RECALL_AT
from engine.evaluation.ranking import Rankings

RESAMPLES = 1000
LEVEL = 95  # percent of the resamples that an interval holds
_DRAWN = 1 << 22  # clusters drawn at once, over resamples
_COLUMNS = tuple(f"R@{k}" for k in RECALL_AT) + ("MeanR",)


@dataclass(frozen=True)
class Difference:
    """By how much a figure of B is above that of A, with 95% interval and two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def intervals(
    rankings: Rankings, video_of_caption: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% interval (low, high) of each R@K and MeanR of both directions, by the names of `all_metrics`."""
    videos = np.flatnonzero(~np.isnan(rankings.v2t))  # those with captions
    number = np.searchsorted(videos, video_of_caption)
    everyone = np.arange(len(videos))
    found = {}
    for direction, ranks, clusters in (
        ("t2v", rankings.t2v, number),
        ("v2t", rankings.v2t[videos], everyone),
        ("v2t_any", rankings.v2t_any[videos], everyone),
    ):
        sums, sizes = _by_cluster(_statistics(ranks), clusters, len(videos))
        drawn = _resampled(sums, sizes, resamples=resamples, seed=seed)
        low, high = _percentiles(drawn)
        found.update(
            {f"{direction}/{c}": (float(a), float(b)) for c, a, b in zip(_COLUMNS, low, high, strict=True)}
        )
    return found


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Difference]:
    """B minus A of each R@K (percentage points) and MeanR for the same queries, ranks `a` and `b` [Q].

    `clusters` [Q] says which queries belong together (the video of a caption); by default each stands alone.
    Both systems are resampled by the same draws. Queries that are NaN in either are left out. p is twice
    the smaller share of resamples on one side of 0, zeros counted on both: it is at most 0.05 just where the
    interval leaves 0 out. Raises `UserError` where the lengths differ or nothing is left.
    """
    if a.shape != b.shape:
        raise UserError(f"paired bootstrap: {len(a)} queries in A, {len(b)} in B")
    ranked = ~(np.isnan(a) | np.isnan(b))
    if not ranked.any():
        raise UserError("paired bootstrap: no query is ranked in both")
    groups = np.arange(len(a)) if clusters is None else clusters
    names, number = np.unique(groups[ranked], return_inverse=True)
    gain = _statistics(b[ranked]) - _statistics(a[ranked])
    sums, sizes = _by_cluster(gain, number, len(names))
    drawn = _resampled(sums, sizes, resamples=resamples, seed=seed)
    low, high = _percentiles(drawn)
    below, above = (drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0)
    p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (1 + resamples))
    value = sums.sum(axis=0) / sizes.sum()
    return {
        column: Difference(*(float(part[i]) for part in (value, low, high, p)))
        for i, column in enumerate(_COLUMNS)
    }


def _statistics(ranks: np.ndarray) -> np.ndarray:
    """What is averaged over queries: 100 where within the first K, and the rank itself. [Q, S]."""
    return np.stack([*(100.0 * (ranks <= k) for k in RECALL_AT), ranks], axis=1)


def _by_cluster(values: np.ndarray, clusters: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums [C, S] and sizes [C] of clusters."""
    columns = [np.bincount(clusters, weights=column, minlength=count) for column in values.T]
    return np.stack(columns, axis=1), np.bincount(clusters, minlength=count).astype(float)


def _resampled(sums: np.ndarray, sizes: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Means [R, S] over clusters drawn with replacement. The draws depend on the seed and C alone."""
    random = np.random.default_rng(seed)
    count = len(sizes)
    block = max(1, _DRAWN // count)
    means = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means.append((times @ sums) / (times @ sizes)[:, None])
    return np.concatenate(means)


def _percentiles(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    outside = (100 - LEVEL) / 2
    low, high = np.percentile(drawn, [outside, 100 - outside], axis=0)
    return low, high
