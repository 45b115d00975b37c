"""For each video of a tile: count the captions, and the caption sets, that score above or equal to its own.

N captions and V videos of the split, n and v of a tile; M the largest number of captions of a video.

Captions are counted in the order of their videos. The *position* of a caption is its place in that order. The
caption set of a video is all its captions; its score is that of its best caption. The *positives* of a video
are the scores of its own captions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class CaptionOrder:
    """The captions sorted by video.

    `captions` int64 [N] is the caption at each position, `videos` int64 [N] its video. The captions of video
    j have the positions `starts[j]` to `starts[j + 1] - 1`; their number is `counts[j]`.
    """

    def __init__(self, video_of_caption: np.ndarray, *, num_videos: int) -> None:
        videos = np.asarray(video_of_caption, dtype=np.int64)
        assert videos.ndim == 1 and (not len(videos) or 0 <= videos.min() <= videos.max() < num_videos)
        self.num_videos = num_videos
        self.captions = np.argsort(videos, kind="stable")
        self.videos = videos[self.captions]
        self.counts = np.bincount(videos, minlength=num_videos)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return len(self.captions)

    def unsort(self, values: np.ndarray) -> np.ndarray:
        """Values by position -> values by caption number."""
        result = np.empty_like(values)
        result[self.captions] = values
        return result

    def by_video(self, values: np.ndarray, first: int, last: int) -> np.ndarray:
        """The values of the captions of videos `first` to `last` - 1, as a table [M, v].

        Each column is sorted from large to small and padded with NaN.
        """
        counts = self.counts[first:last]
        table = np.full((last - first, max(1, counts.max(initial=0))), np.nan)
        table[np.arange(table.shape[1]) < counts[:, None]] = values
        return -np.sort(-table, axis=1).T


class RankingCounts:
    """Counts for the videos `first` to `last` - 1. `update` takes the caption tiles in order, all of them.

    `positives` float64 [positions of these videos]: the score of each of their captions.
    """

    def __init__(
        self, order: CaptionOrder, positives: np.ndarray, *, first: int, last: int, like: Tensor
    ) -> None:
        self.order = order
        self.positives = order.by_video(positives, first, last)  # [M, v], row 0: the best caption's score
        self._positives = torch.from_numpy(self.positives).to(like)
        self._captions = torch.from_numpy((~np.isnan(self.positives)).sum(axis=0)).to(like.device)  # [v]
        self.above = torch.zeros(self.positives.shape, dtype=torch.float64, device=like.device)
        self.equal = torch.zeros_like(self.above)
        self.sets_above = torch.zeros(last - first, dtype=torch.float64, device=like.device)
        self.sets_equal = torch.zeros_like(self.sets_above)
        self._unfinished: Tensor | None = None  # best score so far of a set that continues in the next tile

    def update(self, scores: Tensor, positions: slice) -> None:
        """Count the tile `scores` [n, v] of the captions at `positions`."""
        buffer = torch.empty_like(scores, memory_format=torch.contiguous_format)
        for i, positives in enumerate(self._positives):
            # Only the videos that have more than i captions; for i = 0 all, without a copy of the scores.
            columns = slice(None) if i == 0 else (self._captions > i).nonzero().squeeze(1)
            rivals, out = (scores, buffer) if i == 0 else (scores[:, columns], None)
            self.above[i, columns] += count(torch.gt, rivals, positives[columns], dim=0, out=out)
            self.equal[i, columns] += count(torch.eq, rivals, positives[columns], dim=0, out=out)
        sets = self._finished_sets(scores, positions)
        self.sets_above += count(torch.gt, sets, self._positives[0], dim=0)
        self.sets_equal += count(torch.eq, sets, self._positives[0], dim=0)

    def _finished_sets(self, scores: Tensor, positions: slice) -> Tensor:
        """The score of each caption set that ends in this tile: [sets, v]."""
        videos = self.order.videos[positions]
        starts = np.flatnonzero(np.diff(videos, prepend=-1))
        counts = np.diff(starts, append=len(videos))
        if len(starts) == len(videos):  # one caption a set
            sets = scores
        else:
            sets = scores[torch.from_numpy(starts).to(scores.device)]
            for i in range(1, int(counts.max())):
                larger = np.flatnonzero(counts > i)
                rows = torch.from_numpy(larger).to(scores.device)
                next_captions = scores[torch.from_numpy(starts[larger] + i).to(scores.device)]
                sets[rows] = torch.maximum(sets[rows], next_captions)
        if self._unfinished is not None:
            sets = torch.cat([torch.maximum(sets[:1], self._unfinished), sets[1:]])
        continues = positions.stop < len(self.order) and self.order.videos[positions.stop] == videos[-1]
        self._unfinished = sets[-1:].clone() if continues else None
        return sets[:-1] if continues else sets

    def counts(self) -> np.ndarray:
        """float64 [v, 6]: the fields of `Ranks` among caption sets, and those of the best caption among all
        captions. NaN for videos without captions.
        """
        above, equal = self.above[0].cpu().numpy(), self.equal[0].cpu().numpy()
        sets_above, sets_equal = self.sets_above.cpu().numpy(), self.sets_equal.cpu().numpy()
        right = (self.positives[0] == self.positives).sum(axis=0)  # own captions with the best score
        columns = (sets_above, sets_equal - 1.0, np.ones_like(above), above, equal - right, right)
        return np.where(np.isnan(self.positives[0])[:, None], np.nan, np.stack(columns, axis=1))

    def precision(self) -> np.ndarray:
        """Average precision float64 [v] by expected ranks; NaN for videos without captions."""
        above, equal = self.above.cpu().numpy(), self.equal.cpu().numpy()
        # [M, v]: among the video's own captions.
        positives_equal = (self.positives[:, None] == self.positives[None]).sum(axis=1)
        positives_above = (self.positives[:, None] < self.positives[None]).sum(axis=1)
        precision = (1.0 + positives_above + 0.5 * (positives_equal - 1)) / (1.0 + above + 0.5 * (equal - 1))
        # cumsum adds one by one: the padding, which depends on the tiles, does not change the last bit.
        total = np.cumsum(np.where(np.isnan(self.positives), 0.0, precision), axis=0)[-1]
        mean = total / (~np.isnan(self.positives)).sum(axis=0).clip(min=1)
        return np.where(np.isnan(self.positives[0]), np.nan, mean)


def count(
    compare: Callable[..., Tensor],
    scores: Tensor,
    positives: Tensor,
    *,
    dim: int,
    out: Tensor | None = None,
) -> Tensor:
    """The number of `scores` for which `compare(score, positive)` holds, along `dim`, as float64.

    The results are written as floats, which are five times faster to sum than booleans. They are exact up to
    2^24.
    """
    if out is None:
        out = torch.empty_like(scores, memory_format=torch.contiguous_format)
    return compare(scores, positives, out=out).sum(dim=dim).double()
