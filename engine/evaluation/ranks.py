"""The rank of every query, with the candidates that tie: expected ranks and expected recalls.

Q queries. Candidates with the same score have no order. Metrics are their expected values if ties were broken
at random. The rank of a query is that of its first right candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranks:
    """What decides the rank of each query, float64 [Q] each; NaN in all three: not a query.

    The best right candidates of a query share one score. `above` wrong candidates have a higher score, `tied`
    wrong candidates have the same score, and `right` right candidates have it, at least 1.
    """

    above: np.ndarray
    tied: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.above)

    def __getitem__(self, queries: np.ndarray | slice) -> Ranks:
        return Ranks(self.above[queries], self.tied[queries], self.right[queries])

    @property
    def ranked(self) -> Ranks:
        """Only the queries that have a rank."""
        return self[~np.isnan(self.above)]

    @property
    def expected(self) -> np.ndarray:
        """The expected rank, from 1: on average tied / (right + 1) wrong candidates come before the first
        right one.
        """
        return 1.0 + self.above + self.tied / (self.right + 1.0)

    def within(self, k: int) -> np.ndarray:
        """The probability that the rank is at most `k`; 0 or 1 where nothing ties.

        The tied group has `tied + right` places, and the first s = k - above of them are within k. None of
        the right ones is among these with the probability C(n - s, right) / C(n, right), n = tied + right.
        With one right candidate the result is s / (tied + 1).
        """
        places = self.tied + self.right
        inside = np.clip(k - self.above, 0.0, places)
        missed = np.ones(len(self))
        for i in range(int(np.nanmax(self.right, initial=0.0))):
            factor = np.clip(places - inside - i, 0.0, None) / np.maximum(places - i, 1.0)
            missed *= np.where(i < self.right, factor, 1.0)
        return np.where(np.isnan(self.above), np.nan, 1.0 - missed)


def single_ranks(ranks: np.ndarray, tied: np.ndarray | float = 0.0) -> Ranks:
    """`Ranks` of queries with one right candidate each, from expected ranks [Q] and tied candidates."""
    tied = np.where(np.isnan(ranks), np.nan, tied)
    return Ranks(ranks - 1.0 - tied / 2.0, tied, np.where(np.isnan(ranks), np.nan, 1.0))
