"""The features of an index by row. They are mapped from disk, so they may be larger than memory.

R rows, D joint width, F frames a video. All vectors have length 1, except zero frames (padding).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.index_format import DTYPE

VIEWS = ("video", "sum")  # the vectors of a video that engines search: see `FeatureRows.views_of`


@dataclass(frozen=True)
class FeatureRows:
    """`video` [R, D] and `frames` [R, F, D], float16; for some heads the frames' `lengths` [R, F] before
    they were normalised.
    """

    video: np.ndarray
    frames: np.ndarray
    lengths: np.ndarray | None = None

    @classmethod
    def empty(cls, width: int, frames: int) -> FeatureRows:
        return cls(np.zeros((0, width), DTYPE), np.zeros((0, frames, width), DTYPE))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Those that there are, in the order of their files."""
        return (self.video, self.frames, *([] if self.lengths is None else [self.lengths]))

    def raw_frames(self, rows: np.ndarray) -> np.ndarray:
        """The frames [n, F, D] of `rows` as the encoder gave them, float32, up to rounding."""
        assert self.lengths is not None
        return float32(self.frames[rows]) * float32(self.lengths[rows])[..., None]

    @property
    def rows(self) -> int:
        return len(self.video)

    def views(self, first: int, last: int) -> dict[str, np.ndarray]:
        """`views_of` the rows `first` to `last - 1`."""
        return self._views(slice(first, last))

    def views_of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What engines search, float32 [n, D] each.

        "video" is the video embed. "sum" is the video embed plus the mean of the frames: its inner product
        with a query is the score that the video would have if all frames counted. The real score, which
        counts the best frames only, is close to it.
        """
        return self._views(rows)

    def _views(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
        video, frames = float32(self.video[rows]), float32(self.frames[rows])
        return {"video": video, "sum": video + frames.mean(axis=1)}


def float32(rows: np.ndarray) -> np.ndarray:
    """Half precision to float32. Torch converts several times faster than numpy."""
    import torch  # here, because an index can be described without it

    return torch.from_numpy(np.array(rows)).float().numpy()
