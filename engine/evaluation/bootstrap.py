"""Confidence intervals of the metrics: percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

C clusters, Q queries, R resamples, S statistics.

The captions of one video are not independent queries: if the video is hard to find, all of them rank badly.
So videos are drawn, each with all its captions. Both directions are computed from the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from engine.evaluation.metrics import RECALL_AT
from engine.evaluation.ranking import Rankings

RESAMPLES = 1000
LEVEL = 95  # percent of the resamples inside an interval
_BLOCK = 1 << 22  # clusters drawn at once, for several resamples
_COLUMNS = tuple(f"R@{k}" for k in RECALL_AT) + ("MeanR",)


@dataclass(frozen=True)
class Difference:
    """B minus A of one metric, its 95% interval, and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p: float


def intervals(
    rankings: Rankings, video_of_caption: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% interval (low, high) of each R@K and MeanR of both directions, with the names of `all_metrics`."""
    videos = np.flatnonzero(~np.isnan(rankings.v2t))  # those with captions
    cluster_of_caption = np.searchsorted(videos, video_of_caption)
    cluster_of_video = np.arange(len(videos))
    limits = {}
    for direction, ranks, clusters in (
        ("t2v", rankings.t2v, cluster_of_caption),
        ("v2t", rankings.v2t[videos], cluster_of_video),
        ("v2t_any", rankings.v2t_any[videos], cluster_of_video),
    ):
        sums, sizes = _by_cluster(_statistics(ranks), clusters, len(videos))
        low, high = _percentiles(_resampled_means(sums, sizes, resamples=resamples, seed=seed))
        for column, a, b in zip(_COLUMNS, low, high, strict=True):
            limits[f"{direction}/{column}"] = (float(a), float(b))
    return limits


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Difference]:
    """B minus A of each R@K (percentage points) and MeanR. `a` and `b` [Q] are ranks of the same queries.

    `clusters` [Q] is the cluster of each query, for instance the video of a caption; by default every query
    is its own cluster. Both systems are resampled by the same draws. Queries that are NaN in A or B are left
    out. p is twice the share of resamples on one side of 0, for the side with fewer; zeros count on both
    sides. p is at most 0.05 exactly if the interval excludes 0. Raises `UserError` if the lengths differ or
    no query is left.
    """
    if a.shape != b.shape:
        raise UserError(f"paired bootstrap: {len(a)} queries in A, {len(b)} in B")
    ranked = ~(np.isnan(a) | np.isnan(b))
    if not ranked.any():
        raise UserError("paired bootstrap: no query is ranked in both")
    groups = np.arange(len(a)) if clusters is None else clusters
    names, cluster_of_query = np.unique(groups[ranked], return_inverse=True)
    gain = _statistics(b[ranked]) - _statistics(a[ranked])
    sums, sizes = _by_cluster(gain, cluster_of_query, len(names))
    means = _resampled_means(sums, sizes, resamples=resamples, seed=seed)
    low, high = _percentiles(means)
    below, above = (means <= 0).sum(axis=0), (means >= 0).sum(axis=0)
    p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (1 + resamples))
    value = sums.sum(axis=0) / sizes.sum()
    return {
        column: Difference(*(float(part[i]) for part in (value, low, high, p)))
        for i, column in enumerate(_COLUMNS)
    }


def _statistics(ranks: np.ndarray) -> np.ndarray:
    """The values to average over queries [Q, S]: for each K 100 if the rank is at most K, and the rank."""
    return np.stack([*(100.0 * (ranks <= k) for k in RECALL_AT), ranks], axis=1)


def _by_cluster(values: np.ndarray, clusters: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The sums [C, S] and sizes [C] of the clusters."""
    columns = [np.bincount(clusters, weights=column, minlength=count) for column in values.T]
    return np.stack(columns, axis=1), np.bincount(clusters, minlength=count).astype(float)


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Means [R, S] over clusters drawn with replacement. The draws depend only on the seed and C."""
    random = np.random.default_rng(seed)
    count = len(sizes)
    block = max(1, _BLOCK // count)
    means = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means.append((times @ sums) / (times @ sizes)[:, None])
    return np.concatenate(means)


def _percentiles(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The limits (low, high), [S] each, of the means [R, S]."""
    outside = (100 - LEVEL) / 2
    low, high = np.percentile(means, [outside, 100 - outside], axis=0)
    return low, high
