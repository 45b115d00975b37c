"""Ranks of every query in both directions, in tiles of captions x videos.

N captions, V videos, K = 10 best candidates kept; a tile has n captions and v videos.

A query's rank is decided by the candidates that score above the right one and by those that tie with it
(`ranks.py`). The score of a query with its right candidate is the *positive* score. It comes from the same
tiles (`similarity.py`) as the others, so equal features tie exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from engine.distributed.world import World
from engine.evaluation.features import Features
from engine.evaluation.ranking_counts import CaptionOrder, RankingCounts, count
from engine.evaluation.ranks import Ranks
from engine.evaluation.similarity import ScoreTiles, Tiles, VideoTile
from engine.evaluation.top_k import TOP_K, TopK
from modules.heads.head import SimilarityHead

SINGLE_PROCESS = World(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Rankings:
    """Ranks and best candidates, indexed by the numbers of captions and videos in the split."""

    t2v: Ranks  # [N] each caption's video among all videos
    v2t: Ranks  # [V] each video's caption set among all sets; NaN: no caption
    v2t_any: Ranks  # [V] the video's best caption among all captions; NaN: no caption
    t2v_ap: np.ndarray  # float64 [N] average precision; with one right candidate it is 1 / expected rank
    v2t_ap: np.ndarray  # float64 [V] average precision over all captions; NaN: no caption
    t2v_top: np.ndarray  # int64 [N, K] the best videos, the best first; -1 if there are fewer than K
    t2v_top_scores: np.ndarray  # float32 [N, K]
    v2t_top: np.ndarray  # int64 [V, K] the best captions
    v2t_top_scores: np.ndarray  # float32 [V, K]
    t2v_positive: np.ndarray  # float32 [N] score of each caption with its video
    v2t_positive: np.ndarray  # float32 [V] score of each video with its best caption; NaN: no caption


class RawScores:
    """Ranks by the similarity itself. Post-processing (`normalization.py`) overrides the two methods."""

    dtype: torch.dtype | None = None  # of the scores, if it is not that of the tiles
    name: str | None = None  # of the post-processing, for messages

    def t2v(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        """Scores [n, v] by which a caption ranks videos. `captions` int [n] are the numbers of the rows."""
        return scores

    def v2t(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        """Scores [n, v] by which a video ranks captions."""
        return scores


def rank(
    features: Features,
    video_of_caption: np.ndarray,
    *,
    world: World = SINGLE_PROCESS,
    head: SimilarityHead,
    logit_scale: float,
    tile: tuple[int, int] | None = None,
    scoring: RawScores | None = None,
) -> Rankings:
    """Rank all captions and videos. Collective: each rank takes a part of the videos, all get the result.

    `features` must be finite and every caption must have a video (`check_features`). Beyond the features this
    takes the memory of a few tiles and of K candidates a query. Tied candidates stay in the order of their
    numbers among the K best.
    """
    tiles = ScoreTiles(features, head, logit_scale=logit_scale, tile=tile)
    return rank_tiles(tiles, video_of_caption, world=world, scoring=scoring)


@torch.inference_mode()
def rank_tiles(
    tiles: Tiles,
    video_of_caption: np.ndarray,
    *,
    world: World = SINGLE_PROCESS,
    scoring: RawScores | None = None,
) -> Rankings:
    """`rank`, for any kind of tiles, for instance those of a similarity matrix (`MatrixTiles`)."""
    order = CaptionOrder(video_of_caption, num_videos=tiles.num_videos)
    passes = _Passes(order, tiles, scoring or RawScores(), world)
    return passes.rankings(*passes.positive_scores())


@dataclass(frozen=True)
class _Passes:
    """The two passes of `rank`: the first finds the positive scores, the second counts what is above them."""

    order: CaptionOrder
    tiles: Tiles
    scoring: RawScores
    world: World

    @property
    def device(self) -> torch.device:
        return self.tiles.device

    @property
    def dtype(self) -> torch.dtype:
        return self.scoring.dtype or self.tiles.dtype

    def video_tiles(self) -> Iterator[VideoTile]:
        """The tiles of this rank's videos."""
        videos, world = self.order.num_videos, self.world
        first, last = (videos * (world.rank + k) // world.size for k in (0, 1))
        return self.tiles.video_tiles(first, last)

    def caption_tile(self, number: int, videos: VideoTile) -> tuple[slice, Tensor, Tensor, Tensor]:
        """(positions, caption numbers [n], scores to rank videos [n, v], scores to rank captions [n, v])."""
        height = self.tiles.height
        positions = slice(number * height, min((number + 1) * height, len(self.order)))
        captions = torch.from_numpy(self.order.captions[positions]).to(self.device)
        scores = self.tiles.scores(captions, videos)
        by_video = self.scoring.t2v(scores, captions, videos).to(self.dtype)
        by_caption = self.scoring.v2t(scores, captions, videos).to(self.dtype)
        if self.scoring.name is not None:
            by_video = self._finite(by_video, scores, captions, videos)
            by_caption = self._finite(by_caption, scores, captions, videos)
        return positions, captions, by_video, by_caption

    def _finite(self, values: Tensor, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        """Post-processed scores; where the score was -inf they are -inf, so such a candidate ranks last.

        Raises `UserError` if another one is not finite: comparisons with NaN would give ranks below 1.
        """
        values = values.masked_fill(scores == -torch.inf, -torch.inf)
        bad = ~torch.isfinite(values) & (scores != -torch.inf)
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            raise UserError(
                f"{self.scoring.name}: the score {float(scores[row, column]):g} of caption "
                f"{int(captions[row])} with video {videos.first + column} gives no finite result; "
                "scores must be finite, or -inf for a candidate that ranks last"
            )
        return values

    def positive_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """The first pass: positive scores float64 [N] by position, to rank videos and to rank captions.

        Both are on every rank. Only the tiles that hold a caption and its video are computed.
        """
        t2v, v2t = [], []
        for videos in self.video_tiles():
            start, stop = self.order.starts[videos.first], self.order.starts[videos.last]
            if start == stop:
                continue
            for number in range(start // self.tiles.height, -(-stop // self.tiles.height)):
                positions, _, by_video, by_caption = self.caption_tile(number, videos)
                paired = np.arange(max(start, positions.start), min(stop, positions.stop))
                rows = torch.from_numpy(paired - positions.start).to(self.device)
                columns = torch.from_numpy(self.order.videos[paired] - videos.first).to(self.device)
                t2v.append(by_video[rows, columns].double())
                v2t.append(by_caption[rows, columns].double())
        return self._gather(t2v), self._gather(v2t)

    def rankings(self, t2v_positives: np.ndarray, v2t_positives: np.ndarray) -> Rankings:
        """The second pass."""
        captions = _CaptionCounts(t2v_positives, device=self.device, dtype=self.dtype)
        tiles = [self._count(videos, captions, v2t_positives) for videos in self.video_tiles()]
        counts, v2t_ap, v2t_positive, v2t_top, v2t_top_scores = (
            self._gather([torch.from_numpy(part).to(self.device) for part in parts])
            for parts in zip(*(tiles or [_no_videos()]), strict=True)
        )
        v2t, v2t_any = (Ranks(*columns) for columns in (counts.T[:3], counts.T[3:]))
        captions.merge_ranks(self.world)
        t2v = Ranks(*(self.order.unsort(values) for values in captions.counts()))
        t2v_top, t2v_top_scores = (self.order.unsort(array) for array in captions.top.numpy())
        return Rankings(
            t2v=t2v,
            v2t=v2t,
            v2t_any=v2t_any,
            t2v_ap=1.0 / t2v.expected,
            v2t_ap=v2t_ap,
            t2v_top=t2v_top,
            t2v_top_scores=t2v_top_scores,
            v2t_top=v2t_top,
            v2t_top_scores=v2t_top_scores,
            t2v_positive=self.order.unsort(t2v_positives).astype(np.float32),
            v2t_positive=v2t_positive.astype(np.float32),
        )

    def _count(
        self, videos: VideoTile, captions: _CaptionCounts, v2t_positives: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Count all captions for the videos of one tile, and these videos for `captions`.

        Returns `RankingCounts.counts` of the videos [v, 6], their precision, positive score and top K, each
        [v, ...].
        """
        positives = v2t_positives[self.order.starts[videos.first] : self.order.starts[videos.last]]
        video_numbers = torch.arange(videos.first, videos.last, device=self.device)
        counts = top = None
        for number in range(-(-len(self.order) // self.tiles.height)):
            positions, caption_numbers, by_video, by_caption = self.caption_tile(number, videos)
            if counts is None or top is None:
                counts = RankingCounts(
                    self.order, positives, first=videos.first, last=videos.last, like=by_caption
                )
                top = TopK(len(videos), device=self.device, dtype=by_caption.dtype)
            captions.update(by_video, video_numbers, positions)
            counts.update(by_caption, positions)
            top.update(by_caption.T, caption_numbers)
        assert counts is not None and top is not None  # there is a caption
        return counts.counts(), counts.precision(), counts.positives[0], *top.numpy()

    def _gather(self, pieces: list[Tensor]) -> np.ndarray:
        """The rows of all ranks, in the order of videos."""
        rows = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.float64, device=self.device)
        return self.world.gather_rows(rows).cpu().numpy()


class _CaptionCounts:
    """For each caption, by position: counts of videos scored above or equal to its own, and the top K."""

    def __init__(self, positives: np.ndarray, *, device: torch.device, dtype: torch.dtype) -> None:
        self.positives = torch.from_numpy(positives).to(device)
        self.above = torch.zeros_like(self.positives)
        self.equal = torch.zeros_like(self.positives)
        self.top = TopK(len(positives), device=device, dtype=dtype)

    def update(self, scores: Tensor, videos: Tensor, positions: slice) -> None:
        """Count the videos of a tile [n, v] for the captions at `positions`."""
        positives = self.positives[positions].to(scores.dtype)[:, None]
        self.above[positions] += count(torch.gt, scores, positives, dim=1)
        self.equal[positions] += count(torch.eq, scores, positives, dim=1)
        self.top.update(scores, videos, first=positions.start)

    def merge_ranks(self, world: World) -> None:
        """Sum the counts over the ranks, each of which has counted its part of the videos."""
        if world.size > 1:
            self.above = world.gather_rows(self.above[None]).sum(dim=0)
            self.equal = world.gather_rows(self.equal[None]).sum(dim=0)
        self.top.merge_ranks(world)

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The fields of `Ranks`, by position. The counts of equal scores include the caption's own video."""
        above, equal = self.above.cpu().numpy(), self.equal.cpu().numpy()
        return above, equal - 1.0, np.ones(len(above))


def _no_videos() -> tuple[np.ndarray, ...]:
    """What `_count` returns, for a rank that has no videos."""
    nothing = np.empty(0)
    top = np.empty((0, TOP_K))
    return np.empty((0, 6)), nothing, nothing, top.astype(np.int64), top.astype(np.float32)
