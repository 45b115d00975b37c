"""Confidence intervals of the metrics: percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

C clusters, Q queries, R resamples, S statistics.

The captions of one video are not independent queries: if the video is hard to find, all of them rank badly.
So videos are drawn, each with all its captions. Both directions are computed from the same draw. With few
videos these intervals are too narrow.
"""

from __future__ import annotations

import numpy as np

from engine.evaluation.metrics import RECALL_AT
from engine.evaluation.ranking import Rankings
from engine.evaluation.ranks import Ranks

RESAMPLES = 1000
LEVEL = 95  # percent of the resamples inside an interval
_BLOCK = 1 << 22  # clusters drawn at once, for several resamples
COLUMNS = tuple(f"R@{k}" for k in RECALL_AT) + ("MeanR",)


def intervals(
    rankings: Rankings, video_of_caption: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% interval (low, high) of each R@K and MeanR of both directions, with the names of `all_metrics`."""
    videos = np.flatnonzero(~np.isnan(rankings.v2t.above))  # those with captions
    cluster_of_caption = np.searchsorted(videos, video_of_caption)
    cluster_of_video = np.arange(len(videos))
    limits = {}
    for direction, ranks, clusters in (
        ("t2v", rankings.t2v, cluster_of_caption),
        ("v2t", rankings.v2t[videos], cluster_of_video),
        ("v2t_any", rankings.v2t_any[videos], cluster_of_video),
    ):
        sums, sizes = by_cluster(statistics(ranks), clusters, len(videos))
        low, high = _percentiles(_resampled_means(sums, sizes, resamples=resamples, seed=seed))
        for column, a, b in zip(COLUMNS, low, high, strict=True):
            limits[f"{direction}/{column}"] = (float(a), float(b))
    return limits


def statistics(ranks: Ranks) -> np.ndarray:
    """The values to average over queries [Q, S], in the order of `COLUMNS`."""
    return np.stack([*(100.0 * ranks.within(k) for k in RECALL_AT), ranks.expected], axis=1)


def by_cluster(values: np.ndarray, clusters: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
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
