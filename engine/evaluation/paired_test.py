"""Is system B better than A on the same queries? A sign-flip permutation test over videos, and its interval.

C clusters, Q queries, R sign vectors, S statistics.

If A and B are equally good, the two could be swapped for any video: its gain (B minus A, summed over its
captions) would change its sign. p is the share of sign vectors whose difference is at least as large as the
one found. With few videos all sign vectors are counted, so p is exact; else they are drawn at random. Under
no difference p <= 0.05 has a probability of at most 5%, with any number of videos.

The interval holds the differences d that the same test does not reject: it is a test of gains minus d. So p
is at most 0.05 exactly if the interval excludes 0. For one sign vector let I be the closed interval between
the mean over the flipped clusters and the mean over the others; the vector counts against d if d is in I
(Hartigan 1969).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from engine.evaluation.bootstrap import COLUMNS, by_cluster, statistics
from engine.evaluation.ranks import Ranks

FEW = 50  # videos; with fewer only large differences can be shown
LEVEL = 0.05
_BLOCK = 1 << 22  # signs at once
_ROUNDING = 1e-9  # relative; means that differ by less are equal


@dataclass(frozen=True)
class Difference:
    """B minus A of one metric, its 95% interval, and the two-sided p-value of no difference.

    `low` is -inf and `high` inf if there are too few clusters to exclude any difference.
    """

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class PairedTest:
    """`differences` by metric. `clusters`: how many there are; `exact`: all sign vectors were counted."""

    differences: dict[str, Difference]
    clusters: int
    exact: bool


def paired_test(
    a: Ranks, b: Ranks, *, clusters: np.ndarray | None = None, samples: int = 10_000, seed: int = 0
) -> PairedTest:
    """B minus A of each R@K (percentage points) and MeanR. `a` and `b` are ranks of the same queries [Q].

    `clusters` [Q] is the cluster of each query, for instance the video of a caption; by default every query
    is its own cluster. `samples` sign vectors are drawn, or all are counted if they are not more. Queries
    without a rank in A or B are left out. Raises `UserError` if the lengths differ or no query is left.
    """
    if len(a) != len(b):
        raise UserError(f"paired test: {len(a)} queries in A, {len(b)} in B")
    ranked = ~(np.isnan(a.above) | np.isnan(b.above))
    if not ranked.any():
        raise UserError("paired test: no query is ranked in both")
    groups = np.arange(len(a)) if clusters is None else clusters
    names, cluster_of_query = np.unique(groups[ranked], return_inverse=True)
    gains = statistics(b[ranked]) - statistics(a[ranked])
    sums, sizes = by_cluster(gains, cluster_of_query, len(names))
    exact = 2 ** min(len(names) - 1, 60) <= samples
    low, high = _limits(sums, sizes, samples=samples, seed=seed, exact=exact)
    value = sums.sum(axis=0) / sizes.sum()
    differences = {
        column: _difference(float(value[i]), low[:, i], high[:, i], exact=exact)
        for i, column in enumerate(COLUMNS)
    }
    return PairedTest(differences, len(names), exact)


def _limits(
    sums: np.ndarray, sizes: np.ndarray, *, samples: int, seed: int, exact: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval I of each sign vector, [R, S] each.

    A vector and its opposite have the same I, so the first cluster is never flipped when all are counted.
    """
    count = len(sizes)
    random = np.random.default_rng(seed)
    vectors = 2 ** (count - 1) if exact else samples
    block = max(1, _BLOCK // count)
    columns = np.concatenate([sums, sizes[:, None]], axis=1)
    total = columns.sum(axis=0)
    low, high = [], []
    for start in range(0, vectors, block):
        rows = np.arange(start, min(start + block, vectors))
        if exact:
            flipped = np.zeros((len(rows), count))
            flipped[:, 1:] = rows[:, None] >> np.arange(count - 1) & 1
        else:
            flipped = random.integers(2, size=(len(rows), count), dtype=np.int8).astype(np.float64)
        part = flipped @ columns
        means = [_means(piece) for piece in (part, total - part)]
        low.append(np.fmin(*means))
        high.append(np.fmax(*means))
        nothing = (part[:, -1] == 0) | (part[:, -1] == total[-1])  # the vector of the gains as they are
        low[-1][nothing], high[-1][nothing] = -np.inf, np.inf
    return np.concatenate(low), np.concatenate(high)


def _means(sums_and_sizes: np.ndarray) -> np.ndarray:
    """Means [R, S]; NaN without clusters."""
    with np.errstate(invalid="ignore"):
        return sums_and_sizes[:, :-1] / sums_and_sizes[:, -1:]


def _difference(value: float, low: np.ndarray, high: np.ndarray, *, exact: bool) -> Difference:
    """`low` and `high` [R] are the ends of I; with random vectors the gains as they are count once more."""
    added = 0 if exact else 1
    finite = np.abs(np.concatenate([low[np.isfinite(low)], high[np.isfinite(high)], [value]]))
    rounding = _ROUNDING * float(finite.max())
    inside = (low <= rounding) & (high >= -rounding)
    p = (int(inside.sum()) + added) / (len(low) + added)
    # d below the value is kept while more than 5% of the vectors have low <= d: d of that order or above.
    rejected = math.floor(LEVEL * (len(low) + added)) - added
    if rejected < 0:
        return Difference(value, -math.inf, math.inf, p)
    limits = float(np.partition(low, rejected)[rejected]), -float(np.partition(-high, rejected)[rejected])
    lower, upper = (0.0 if abs(limit) <= rounding else limit for limit in limits)
    return Difference(value, lower, upper, p)
