"""Captions in the order of their videos, so that what belongs to a video lies together.

N captions, V videos. A caption's *place* is its position in this order.
"""

from __future__ import annotations

import numpy as np


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
