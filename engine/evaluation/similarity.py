"""The similarity in tiles of one fixed shape, so that captions x videos x frames is never in memory at once.

N captions, V videos, W words, F frames, D width; a tile has n captions and v videos.

Matrix products of different shapes may differ in the last bit, and equal features would then not tie exactly.
So every tile of a split is computed in the same shape, padded with zeros at the edges, and what a head
computes of captions or videos alone too. A score has the same bits in every pass, on every rank, and at every
position of its caption and video in the split.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from engine.evaluation.features import Features
from modules.heads.head import MOST_NUMBERS, TEXT_KEYS, VIDEO_KEYS, SimilarityHead, without_autocast
from modules.numerics import at_least_float32

TILE = (512, 512)  # captions, videos: the few float32 matrices of a tile fit into a CPU's cache
CACHED_NUMBERS = 1 << 21  # of the largest tensor of a tile on a CPU: 8 MB, near the cache
# Those of a GPU are large: to start the 150 kernels of a tile then takes a small part of the tile's time.
GPU_SIDES = (8192, 4096, 2048, 1024, 512, 256, 128, 64)
PAIR_BYTES = 128  # of a tile at its most: top_frames + 7 matrices in float32, 8 in float64 of post-processing
NUMBER_BYTES = 16  # for each number a pair: the tensor itself, and up to three like it
GRAIN = 64  # small splits use smaller tiles, in multiples of this
_MOST_INTEGER = 2**53  # float64 holds all whole numbers up to it


@dataclass(frozen=True)
class VideoTile:
    """The videos `first` to `last` - 1, with what their head prepared of them if scores are computed.

    `rows` are padded to the tile's width.
    """

    first: int
    last: int
    rows: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.last - self.first


def default_tile(device: torch.device, *, numbers: int = 1) -> tuple[int, int]:
    """The largest tile of captions x videos for `device`. A GPU's takes at most an eighth of its memory.

    `numbers`: the size of the largest tensor for each pair (`SimilarityHead.numbers_per_pair`). Of all memory
    and not of what is free: every rank must have the same tile, so that equal features tie.
    """
    if device.type != "cuda":
        side = TILE[0]
        while side > GRAIN and side**2 * numbers > CACHED_NUMBERS:
            side //= 2
        return side, side
    budget = torch.cuda.get_device_properties(device).total_memory // 8
    each = PAIR_BYTES + NUMBER_BYTES * (numbers - 1)
    fits = (side for side in GPU_SIDES if side**2 * each <= budget and side**2 * numbers <= MOST_NUMBERS)
    return (side := next(fits, 512 if numbers == 1 else GRAIN)), side


class Tiles:
    """Scores of N captions with V videos, in tiles of at most `height` x `width`."""

    def __init__(
        self, size: tuple[int, int], tile: tuple[int, int], *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.num_captions, self.num_videos = size
        self.height, self.width = (
            min(most, -(-max(count, 1) // GRAIN) * GRAIN) for most, count in zip(tile, size, strict=True)
        )
        self.device = device
        self.dtype = dtype

    def video_tiles(self, first: int, last: int) -> Iterator[VideoTile]:
        """The videos `first` to `last` - 1, one tile after another."""
        for start in range(first, last, self.width):
            yield self.video_tile(start, min(start + self.width, last))

    def video_tile(self, first: int, last: int) -> VideoTile:
        """One tile; at most `width` videos."""
        raise NotImplementedError

    def scores(self, captions: Tensor, videos: VideoTile) -> Tensor:
        """Similarity [n, v] of the captions with the numbers `captions` int64 [n], n at most `height`."""
        raise NotImplementedError


class MatrixTiles(Tiles):
    """Scores from a matrix [N, V], for instance of a model whose scores are not computed from features.

    Whole numbers and floats of any type; scores that differ in the matrix do not tie.
    """

    def __init__(self, similarity: np.ndarray, *, tile: tuple[int, int] = TILE) -> None:
        dtype = torch.from_numpy(np.empty(0, float_type(similarity.dtype)))
        super().__init__(similarity.shape, tile, device=torch.device("cpu"), dtype=dtype.dtype)
        self.similarity = similarity

    def video_tile(self, first: int, last: int) -> VideoTile:
        return VideoTile(first, last)

    def scores(self, captions: Tensor, videos: VideoTile) -> Tensor:
        """See `Tiles.scores`. Raises `UserError` on NaN, which names the caption, and on whole numbers that
        float64 does not hold.
        """
        block = self.similarity[captions.numpy(), videos.first : videos.last]
        if block.dtype.kind in "iu":
            if ((block > _MOST_INTEGER) | (block < -_MOST_INTEGER)).any():
                raise UserError("similarity: whole numbers above 2^53 cannot be ranked exactly; scale them")
        else:
            has_nan = np.isnan(block).any(axis=1)
            if has_nan.any():
                raise UserError(f"similarity of caption {int(captions[int(has_nan.argmax())])} is NaN")
        return torch.from_numpy(block.astype(float_type(block.dtype), copy=False))


def float_type(dtype: np.dtype) -> np.dtype:
    """float32 if it holds all values of `dtype`, else float64, in the byte order of this machine."""
    is_small = dtype.itemsize <= (4 if dtype.kind == "f" else 2)
    return np.dtype(np.float32 if is_small else np.float64)


class ScoreTiles(Tiles):
    """Scores that a head computes from features, tile by tile."""

    def __init__(
        self,
        features: Features,
        head: SimilarityHead,
        *,
        logit_scale: float,
        tile: tuple[int, int] | None = None,
    ) -> None:
        """`head` is in evaluation mode. `tile`: captions and videos of a tile, at most; `default_tile` if it
        is None.
        """
        dtype = at_least_float32(features.video[:0]).dtype
        size = (len(features.text), len(features.video))
        device = features.video.device
        numbers = head.numbers_per_pair(
            words=1 if features.words is None else features.words.shape[1],
            frames=1 if features.frames is None else features.frames.shape[1],
        )
        super().__init__(size, tile or default_tile(device, numbers=numbers), device=device, dtype=dtype)
        self.features = features
        self.head = head if head.has_type(dtype) else copy.deepcopy(head).to(dtype)
        self.logit_scale = logit_scale

    @torch.no_grad()
    def video_tile(self, first: int, last: int) -> VideoTile:
        """One tile; at most `width` videos."""
        rows = self._rows(VIDEO_KEYS, slice(first, last), self.width)
        with without_autocast(rows):
            return VideoTile(first, last, self.head.prepare_video(rows))

    @torch.no_grad()
    def scores(self, captions: Tensor, videos: VideoTile) -> Tensor:
        """See `Tiles.scores`; a view of the padded tile."""
        rows = self._rows(TEXT_KEYS, captions, self.height)
        with without_autocast(rows):
            padded = self.head.score(self.head.prepare_text(rows, self.logit_scale), videos.rows)
        return padded[: len(captions), : len(videos)]

    def _rows(self, side: tuple[str, ...], rows: Tensor | slice, size: int) -> dict[str, Tensor]:
        """The features of one side that the head reads, padded to `size` rows, without a full frame mask."""
        names = [name for name in side if self.head.reads(name)]
        found = self.features.of(names, rows)
        return {
            name: _pad(tensor, size)
            for name, tensor in found.items()
            if name != "frame_mask" or not bool(tensor.all())
        }


def _pad(rows: Tensor, size: int) -> Tensor:
    """`rows` with zeros appended, up to `size` rows."""
    if len(rows) == size:
        return rows
    padded = rows.new_zeros((size, *rows.shape[1:]))
    padded[: len(rows)] = rows
    return padded
