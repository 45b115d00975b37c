"""The similarity in tiles of one fixed shape, so that captions x videos x frames never exists as a whole.

N captions, V videos, F frames, D width; n x v the captions and videos of a tile.

Matrix products of other shapes may differ in the last bit, and two equal features would then no longer tie.
So every tile of a set is computed in the same shape, padded with zeros at the edges: a score has the same
bits in every pass, on every rank, and wherever in the set its caption and video stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from engine.evaluation.features import Features
from modules.heads.hmmc import similarity_of_unit_vectors
from modules.numerics import at_least_float32, l2_normalize

TILE = (512, 512)  # captions, videos: the handful of float32 matrices of a tile fit a processor's cache
GRAIN = 64  # small sets take smaller tiles, in multiples of this


@dataclass(frozen=True)
class VideoTile:
    """The videos `first` to `last` - 1 and, where scores are made of features, what makes them: normalised
    and padded to the tile's width."""

    first: int
    last: int
    videos: Tensor  # [width, D]
    frames: Tensor | None = None  # [F, width, D]
    frame_mask: Tensor | None = None  # [width, F]

    def __len__(self) -> int:
        return self.last - self.first


class Tiles:
    """Scores of N captions with V videos, at most `height` x `width` at once."""

    def __init__(
        self, size: tuple[int, int], tile: tuple[int, int], *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.num_captions, self.num_videos = size
        self.height, self.width = (min(a, _padded(b)) for a, b in zip(tile, size, strict=True))
        self.device = device
        self.dtype = dtype

    def video_tiles(self, first: int, last: int) -> Iterator[VideoTile]:
        """The videos `first` to `last` - 1, a tile at a time."""
        for start in range(first, last, self.width):
            yield self.video_tile(start, min(start + self.width, last))

    def video_tile(self, first: int, last: int) -> VideoTile:
        """One tile; at most `width` videos."""
        raise NotImplementedError

    def scores(self, captions: Tensor, videos: VideoTile) -> Tensor:
        """Similarity [n, v] of the captions numbered `captions` int64 [n], n at most `height`."""
        raise NotImplementedError


class MatrixTiles(Tiles):
    """Scores that are there as a whole matrix [N, V], perhaps of a model that is no product of features."""

    def __init__(self, similarity: np.ndarray, *, tile: tuple[int, int] = TILE) -> None:
        dtype = torch.float64 if similarity.dtype == np.float64 else torch.float32
        super().__init__(similarity.shape, tile, device=torch.device("cpu"), dtype=dtype)
        self.similarity = similarity

    def video_tile(self, first: int, last: int) -> VideoTile:
        return VideoTile(first, last, torch.empty(0))

    def scores(self, captions: Tensor, videos: VideoTile) -> Tensor:
        """As of any tiles. Raises `UserError` on NaN, naming the caption."""
        block = self.similarity[captions.numpy(), videos.first : videos.last]
        bad = np.isnan(block).any(axis=1)
        if bad.any():
            raise UserError(f"similarity of caption {int(captions[int(bad.argmax())])} is NaN")
        return torch.from_numpy(block).to(self.dtype)


class ScoreTiles(Tiles):
    """Scores made of features, tile by tile."""

    def __init__(
        self, features: Features, *, top_frames: int, logit_scale: float, tile: tuple[int, int] = TILE
    ) -> None:
        dtype = at_least_float32(features.video[:0]).dtype
        size = (len(features.text), len(features.video))
        super().__init__(size, tile, device=features.video.device, dtype=dtype)
        self.features = features
        self.top_frames = top_frames
        self.logit_scale = logit_scale

    def video_tile(self, first: int, last: int) -> VideoTile:
        """One tile; at most `width` videos."""
        made = self.features
        frames = mask = None
        if made.frames is not None:
            unit = l2_normalize(made.frames[first:last])
            frames = _pad(unit, self.width).transpose(0, 1).contiguous()
            if made.frame_mask is not None and not bool(made.frame_mask[first:last].all()):
                mask = _pad(made.frame_mask[first:last], self.width)
        return VideoTile(first, last, _pad(l2_normalize(made.video[first:last]), self.width), frames, mask)

    def scores(self, captions: Tensor, videos: VideoTile) -> Tensor:
        """A view into a whole tile."""
        unit = _pad(self.logit_scale * l2_normalize(self.features.text[captions]), self.height)
        whole = similarity_of_unit_vectors(
            unit, videos.videos, videos.frames, videos.frame_mask, top_frames=self.top_frames
        )
        return whole[: len(captions), : len(videos)]


def _padded(size: int) -> int:
    return -(-max(size, 1) // GRAIN) * GRAIN


def _pad(rows: Tensor, size: int) -> Tensor:
    """`rows` with zero rows up to `size`."""
    if len(rows) == size:
        return rows
    padded = rows.new_zeros((size, *rows.shape[1:]))
    padded[: len(rows)] = rows
    return padded
