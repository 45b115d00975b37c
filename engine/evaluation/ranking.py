"""Ranks of every query in both directions, in one pass over tiles of captions x videos (METHOD 6).

N captions, V videos, K = 10 best places kept; a tile has n captions and v videos.

Rank of a query: 1 + items scored above the right one + half of the other items scored equal, that is the
expected rank if ties were broken at random. A constant matrix therefore never scores better than chance.
Own scores and their rivals come from the same tiles (`similarity.py`), so that equal features tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.distributed.world import World
from engine.evaluation.features import Features
from engine.evaluation.ranking_counts import CaptionOrder, RankingCounts, count
from engine.evaluation.similarity import TILE, ScoreTiles, Tiles, VideoTile
from engine.evaluation.top_k import KEPT, TopK

SINGLE_PROCESS = World(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Rankings:
    """Where the right answers stand, by the numbers of captions and videos in the split. Ranks from 1."""

    t2v: np.ndarray  # float64 [N] rank of each caption's own video among all videos
    v2t: np.ndarray  # float64 [V] rank of each video's caption set among all sets; NaN: no caption
    v2t_any: np.ndarray  # float64 [V] rank of its best-placed caption among all captions; NaN: no caption
    t2v_ap: np.ndarray  # float64 [N] average precision; there is one right answer: 1 / rank
    v2t_ap: np.ndarray  # float64 [V] average precision over all captions; NaN: no caption
    t2v_top: np.ndarray  # int64 [N, K] the best videos, the best first; -1 where there are fewer
    t2v_top_scores: np.ndarray  # float32 [N, K]
    v2t_top: np.ndarray  # int64 [V, K] the best captions
    v2t_top_scores: np.ndarray  # float32 [V, K]
    t2v_own: np.ndarray  # float32 [N] score of each caption with its own video
    v2t_own: np.ndarray  # float32 [V] best score of each video with a caption of its own; NaN: no caption


class RawScores:
    """The similarity itself, for both directions. Post-processing takes its place (`postprocessing.py`)."""

    dtype: torch.dtype | None = None  # of the scores, where it is not that of the tiles

    def t2v(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        """Scores [n, v] that a caption ranks videos by; `captions` int [n] are the rows' numbers."""
        return scores

    def v2t(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        """Scores [n, v] that a video ranks captions by."""
        return scores


def rank(
    features: Features,
    video_of_caption: np.ndarray,
    *,
    world: World = SINGLE_PROCESS,
    top_frames: int,
    logit_scale: float,
    tile: tuple[int, int] = TILE,
    scoring: RawScores | None = None,
) -> Rankings:
    """Rank everything. Collective: each rank takes its share of videos; all get the whole result.

    `features` must be finite and every caption have a video (`check_features`). Memory beyond the features:
    a few tiles, and K places a query. Equal scores keep the order of their numbers in the K best.
    """
    tiles = ScoreTiles(features, top_frames=top_frames, logit_scale=logit_scale, tile=tile)
    return rank_tiles(tiles, video_of_caption, world=world, scoring=scoring)


@torch.inference_mode()
def rank_tiles(
    tiles: Tiles,
    video_of_caption: np.ndarray,
    *,
    world: World = SINGLE_PROCESS,
    scoring: RawScores | None = None,
) -> Rankings:
    """`rank` of scores from anywhere, for instance of a matrix (`MatrixTiles`)."""
    order = CaptionOrder(video_of_caption, num_videos=tiles.num_videos)
    counting = _Counting(order, tiles, scoring or RawScores(), world)
    return counting.rankings(*counting.own_scores())


@dataclass(frozen=True)
class _Counting:
    """The two passes of `rank`: first own scores, then what stands above them."""

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
        """The videos of this rank."""
        videos, world = self.order.num_videos, self.world
        first, last = (videos * (world.rank + k) // world.size for k in (0, 1))
        return self.tiles.video_tiles(first, last)

    def caption_tile(self, number: int, videos: VideoTile) -> tuple[slice, Tensor, Tensor, Tensor]:
        """(places, caption numbers [n], scores to rank videos by [n, v], scores to rank captions by)."""
        height = self.tiles.height
        places = slice(number * height, min((number + 1) * height, len(self.order)))
        captions = torch.from_numpy(self.order.captions[places]).to(self.device)
        scores = self.tiles.scores(captions, videos)
        return (
            places,
            captions,
            self.scoring.t2v(scores, captions, videos).to(self.dtype),
            self.scoring.v2t(scores, captions, videos).to(self.dtype),
        )

    def own_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Score of each caption with its own video, to rank videos and to rank captions by: float64 [N] by
        place, on every rank. Only the tiles that hold such pairs are computed."""
        t2v, v2t = [], []
        for videos in self.video_tiles():
            start, stop = self.order.starts[videos.first], self.order.starts[videos.last]
            if start == stop:
                continue
            for number in range(start // self.tiles.height, -(-stop // self.tiles.height)):
                places, _, by_video, by_caption = self.caption_tile(number, videos)
                rows = np.arange(max(start, places.start), min(stop, places.stop))
                columns = torch.from_numpy(self.order.owners[rows] - videos.first).to(self.device)
                within = torch.from_numpy(rows - places.start).to(self.device)
                t2v.append(by_video[within, columns].double())
                v2t.append(by_caption[within, columns].double())
        return self._gather(t2v), self._gather(v2t)

    def rankings(self, t2v_own: np.ndarray, v2t_own: np.ndarray) -> Rankings:
        """The counting pass."""
        rows = _RowCounts(t2v_own, device=self.device, dtype=self.dtype)
        by_video: list[tuple[np.ndarray, ...]] = []
        for videos in self.video_tiles():
            by_video.append(self._count(videos, rows, v2t_own))
        ranks, above_any, precision, own, top, top_scores = (
            self._gather([torch.from_numpy(part).to(self.device) for part in parts])
            for parts in zip(*(by_video or [_no_videos()]), strict=True)
        )
        rows.over_ranks(self.world)
        t2v = self.order.unsort(rows.ranks())
        t2v_top, t2v_top_scores = (self.order.unsort(kept) for kept in rows.top.numpy())
        return Rankings(
            t2v=t2v,
            v2t=ranks,
            v2t_any=above_any,
            t2v_ap=1.0 / t2v,
            v2t_ap=precision,
            t2v_top=t2v_top,
            t2v_top_scores=t2v_top_scores,
            v2t_top=top,
            v2t_top_scores=top_scores,
            t2v_own=self.order.unsort(t2v_own).astype(np.float32),
            v2t_own=own.astype(np.float32),
        )

    def _count(self, videos: VideoTile, rows: _RowCounts, v2t_own: np.ndarray) -> tuple[np.ndarray, ...]:
        """Show all captions the videos of one tile; what came out for these videos, each array [v, ...]."""
        own = v2t_own[self.order.starts[videos.first] : self.order.starts[videos.last]]
        numbers = torch.arange(videos.first, videos.last, device=self.device)
        columns = top = None
        for number in range(-(-len(self.order) // self.tiles.height)):
            places, captions, by_video, by_caption = self.caption_tile(number, videos)
            if columns is None or top is None:
                columns = RankingCounts(
                    self.order, own, first=videos.first, last=videos.last, like=by_caption
                )
                top = TopK(len(videos), device=self.device, dtype=by_caption.dtype)
            rows.update(by_video, numbers, places)
            columns.update(by_caption, places)
            top.update(by_caption.T, captions)
        assert columns is not None and top is not None  # there is a caption
        return (*columns.ranks(), columns.own[0], *top.numpy())

    def _gather(self, pieces: list[Tensor]) -> np.ndarray:
        """Rows of all ranks, in the order of videos."""
        mine = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.float64, device=self.device)
        return self.world.gather_rows(mine).cpu().numpy()


class _RowCounts:
    """For each caption, by place: videos scored above or equal to its own, and the best videos."""

    def __init__(self, own: np.ndarray, *, device: torch.device, dtype: torch.dtype) -> None:
        self.own = torch.from_numpy(own).to(device)
        self.above = torch.zeros_like(self.own)
        self.equal = torch.zeros_like(self.own)
        self.top = TopK(len(own), device=device, dtype=dtype)

    def update(self, scores: Tensor, videos: Tensor, places: slice) -> None:
        """Count the videos of a tile [n, v] for the captions at `places`."""
        own = self.own[places].to(scores.dtype)[:, None]
        self.above[places] += count(torch.gt, scores, own, dim=1)
        self.equal[places] += count(torch.eq, scores, own, dim=1)
        self.top.update(scores, videos, first=places.start)

    def over_ranks(self, world: World) -> None:
        """Sum the counts of the ranks' shares of videos."""
        if world.size > 1:
            self.above = world.gather_rows(self.above[None]).sum(dim=0)
            self.equal = world.gather_rows(self.equal[None]).sum(dim=0)
        self.top.over_ranks(world)

    def ranks(self) -> np.ndarray:
        """Expected ranks, float64 [N]; the own video is one of the equal ones and no rival."""
        return (1.0 + self.above + 0.5 * (self.equal - 1.0)).cpu().numpy()


def _no_videos() -> tuple[np.ndarray, ...]:
    """What a rank without a share of videos has to tell of them."""
    nothing = np.empty(0)
    places = np.empty((0, KEPT))
    return nothing, nothing, nothing, nothing, places.astype(np.int64), places.astype(np.float32)
