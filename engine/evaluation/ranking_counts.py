"""Counting, for the videos of one tile, the captions and caption sets scored above or equal to their own.

N captions and V videos in all, n and v of a tile, m the most captions that one of these videos has. Captions
are counted in the order of their videos; a caption's *place* is its position in this order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class CaptionOrder:
    """`captions` int64 [N]: the caption at each place; `owners` int64 [N]: its video; the captions of video j
    stand at places `starts[j]` to `starts[j + 1] - 1`."""

    def __init__(self, video_of_caption: np.ndarray, *, num_videos: int) -> None:
        owners = np.asarray(video_of_caption, dtype=np.int64)
        assert owners.ndim == 1 and (not len(owners) or 0 <= owners.min() <= owners.max() < num_videos)
        self.num_videos = num_videos
        self.captions = np.argsort(owners, kind="stable")
        self.owners = owners[self.captions]
        self.counts = np.bincount(owners, minlength=num_videos)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return len(self.captions)

    def unsort(self, values: np.ndarray) -> np.ndarray:
        """Values by place -> values by caption number."""
        result = np.empty_like(values)
        result[self.captions] = values
        return result

    def by_video(self, values: np.ndarray, first: int, last: int) -> np.ndarray:
        """Values of the places of videos `first` to `last` - 1 as a table [most captions, videos], each
        column from the largest to the smallest, filled up with NaN."""
        counts = self.counts[first:last]
        table = np.full((last - first, max(1, counts.max(initial=0))), np.nan)
        table[np.arange(table.shape[1]) < counts[:, None]] = values
        return -np.sort(-table, axis=1).T


class RankingCounts:
    """Fed the caption tiles from the first place to the last, for the videos `first` to `last` - 1.

    `own` float64 [places of these videos] holds the score of each of their captions with them.
    """

    def __init__(self, order: CaptionOrder, own: np.ndarray, *, first: int, last: int, like: Tensor) -> None:
        self.order = order
        self.own = order.by_video(own, first, last)  # [m, v]
        self._own = torch.from_numpy(self.own).to(like)
        self._captions = torch.from_numpy((~np.isnan(self.own)).sum(axis=0)).to(like.device)  # [v]
        self.above = torch.zeros(self.own.shape, dtype=torch.float64, device=like.device)
        self.equal = torch.zeros_like(self.above)
        self.sets_above = torch.zeros(last - first, dtype=torch.float64, device=like.device)
        self.sets_equal = torch.zeros_like(self.sets_above)
        self._unfinished: Tensor | None = None  # best score so far of a set that the next tile goes on with

    def update(self, scores: Tensor, places: slice) -> None:
        """Count the tile [n, v] of the captions at `places`."""
        marks = torch.empty_like(scores, memory_format=torch.contiguous_format)
        for number, own in enumerate(self._own):
            columns = slice(None) if not number else (self._captions > number).nonzero().squeeze(1)
            seen, out = (scores, marks) if not number else (scores[:, columns], None)
            self.above[number, columns] += count(torch.gt, seen, own[columns], dim=0, out=out)
            self.equal[number, columns] += count(torch.eq, seen, own[columns], dim=0, out=out)
        sets = self._finished_sets(scores, places)
        self.sets_above += count(torch.gt, sets, self._own[0], dim=0)
        self.sets_equal += count(torch.eq, sets, self._own[0], dim=0)

    def _finished_sets(self, scores: Tensor, places: slice) -> Tensor:
        """Best score of each set that ends in this tile: [sets, v]."""
        owners = self.order.owners[places]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        counts = np.diff(starts, append=len(owners))
        if len(starts) == len(owners):
            sets = scores
        else:
            sets = scores[torch.from_numpy(starts).to(scores.device)]
            for number in range(1, int(counts.max())):
                more = np.flatnonzero(counts > number)
                where = torch.from_numpy(more).to(scores.device)
                rivals = scores[torch.from_numpy(starts[more] + number).to(scores.device)]
                sets[where] = torch.maximum(sets[where], rivals)
        if self._unfinished is not None:
            sets = torch.cat([torch.maximum(sets[:1], self._unfinished), sets[1:]])
        goes_on = places.stop < len(self.order) and self.order.owners[places.stop] == owners[-1]
        self._unfinished = sets[-1:].clone() if goes_on else None
        return sets[:-1] if goes_on else sets

    def ranks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ranks among caption sets, ranks of the best caption among all, average precisions): float64 [v].

        NaN for videos without captions. The best caption is the first of its equals m to arrive among e
        rivals, on the average after e / (m + 1) of them. Average precision takes expected ranks for ranks.
        """
        above, equal = self.above.cpu().numpy(), self.equal.cpu().numpy()
        silent = np.isnan(self.own[0])
        sets = 1.0 + self.sets_above.cpu().numpy() + 0.5 * (self.sets_equal.cpu().numpy() - 1)
        own_equal = (self.own[:, None] == self.own[None]).sum(axis=1)  # [m, v] of the video's own captions
        best_equal = own_equal[0]
        any_caption = 1.0 + above[0] + (equal[0] - best_equal) / (best_equal + 1.0)
        own_above = (self.own[:, None] < self.own[None]).sum(axis=1)
        precision = (1.0 + own_above + 0.5 * (own_equal - 1)) / (1.0 + above + 0.5 * (equal - 1))
        # Summed one after another, so that the padding of other tiles does not change the last bit.
        total = np.cumsum(np.where(np.isnan(self.own), 0.0, precision), axis=0)[-1]
        mean = total / (~np.isnan(self.own)).sum(axis=0).clip(min=1)
        return (
            np.where(silent, np.nan, sets),
            np.where(silent, np.nan, any_caption),
            np.where(silent, np.nan, mean),
        )


def count(
    compare: Callable[..., Tensor],
    scores: Tensor,
    own: Tensor,
    *,
    dim: int,
    out: Tensor | None = None,
) -> Tensor:
    """How many of `scores` compare so with `own`, along `dim`, as float64.

    The marks are written as floats, five times quicker to sum than truth values; they are exact up to 2^24.
    """
    if out is None:
        out = torch.empty_like(scores, memory_format=torch.contiguous_format)
    return compare(scores, own, out=out).sum(dim=dim).double()
