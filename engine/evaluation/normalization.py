"""Scores normalised after the model: dual softmax and querybank normalisation, computed tile by tile.

N captions, V videos, B bank captions, Q queries; a tile has n captions and v videos. c is the similarity
divided by the logit scale: a cosine, plus the mean cosine of the best frames if frames are used.

Dual softmax (Cheng et al. 2021, arXiv 2109.04290, in the form that evaluation code uses): c times its softmax
over all test queries, exp(t c) / sum over queries of exp(t c). t is usually 100, CLIP's logit scale. If c is
negative, a larger softmax makes the score lower. So it orders only candidates with positive c well.

Querybank normalisation (Bogolin et al. 2022, arXiv 2112.12777): exp(beta c) / sum over the bank of
exp(beta c). The code uses its logarithm, which gives the same ranks and cannot overflow. The static form
normalises every query. The dynamic form normalises a query only if its best candidate is also the best
candidate of some query of the bank (it is "activated"), and otherwise uses c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.distributed.world import World
from engine.evaluation.ranking import SINGLE_PROCESS, Rankings, RawScores
from engine.evaluation.similarity import Tiles, VideoTile

POST_PROCESSING_NOTES = {
    "dsl": "dual softmax needs all test queries at once, so a system that answers one query at a time cannot "
    "use it",
    "qb_norm_static": "querybank normalisation uses a bank of training queries and no other test queries; "
    "every query is normalised",
    "qb_norm_dynamic": "querybank normalisation uses a bank of training queries and no other test queries; "
    "a query is normalised if its best candidate is also the best one of a bank query",
}


@dataclass(frozen=True)
class LogSums:
    """Log-sums, float64 log of the sum of exp(factor * score), and best candidates, in both directions."""

    caption_sums: np.ndarray  # [N] over all videos
    video_sums: np.ndarray  # [V] over all captions
    best_video: np.ndarray  # int64 [N], the lower number if tied
    best_caption: np.ndarray  # int64 [V], the lower number if tied


@torch.inference_mode()
def log_sums(tiles: Tiles, *, factor: float, world: World = SINGLE_PROCESS) -> LogSums:
    """`LogSums` in one pass. Collective: each rank takes a part of the videos, all get the result."""
    first, last = (tiles.num_videos * (world.rank + k) // world.size for k in (0, 1))
    of_captions = _RunningSums(tiles.num_captions, tiles.device)
    of_videos = _RunningSums(last - first, tiles.device)
    for videos in tiles.video_tiles(first, last):
        video_numbers = torch.arange(videos.first, videos.last, device=tiles.device)
        for start in range(0, tiles.num_captions, tiles.height):
            stop = min(start + tiles.height, tiles.num_captions)
            caption_numbers = torch.arange(start, stop, device=tiles.device)
            scores = factor * tiles.scores(caption_numbers, videos).double()
            of_captions.update(scores, video_numbers, slice(start, stop))
            of_videos.update(scores.T, caption_numbers, slice(videos.first - first, videos.last - first))
    of_captions.merge_ranks(world)
    return LogSums(
        caption_sums=of_captions.log_sum.cpu().numpy(),
        video_sums=world.gather_rows(of_videos.log_sum).cpu().numpy(),
        best_video=of_captions.best.cpu().numpy(),
        best_caption=world.gather_rows(of_videos.best).cpu().numpy(),
    )


class _RunningSums:
    """Log-sum, largest score and best candidate of each query, [Q] each, updated tile by tile."""

    def __init__(self, queries: int, device: torch.device) -> None:
        self.log_sum = torch.full((queries,), -torch.inf, dtype=torch.float64, device=device)
        self.largest = torch.full_like(self.log_sum, -torch.inf)
        self.best = torch.full((queries,), -1, device=device)

    def update(self, scores: Tensor, candidates: Tensor, rows: slice) -> None:
        """Add the scores of the queries `rows` with the candidates numbered `candidates`."""
        self.log_sum[rows] = torch.logaddexp(self.log_sum[rows], scores.logsumexp(dim=1))
        largest = scores.amax(dim=1)
        first = (scores == largest[:, None]).to(torch.uint8).argmax(dim=1)
        better = largest > self.largest[rows]
        self.best[rows] = torch.where(better, candidates[first], self.best[rows])
        self.largest[rows] = torch.where(better, largest, self.largest[rows])

    def merge_ranks(self, world: World) -> None:
        """Merge the sums of all ranks. Lower ranks have the candidates with lower numbers."""
        if world.size == 1:
            return
        self.log_sum = world.gather_rows(self.log_sum[None]).logsumexp(dim=0)
        largest, best = world.gather_rows(self.largest[None]), world.gather_rows(self.best[None])
        first = (largest == largest.amax(dim=0)).to(torch.uint8).argmax(dim=0, keepdim=True)
        self.largest, self.best = largest.gather(0, first)[0], best.gather(0, first)[0]


class DualSoftmax(RawScores):
    """c times its softmax: over the captions to rank videos, over the videos to rank captions."""

    name = "dual softmax"
    dtype = torch.float64  # the softmax may be smaller than the smallest float32

    def __init__(
        self, tiles: Tiles, *, temperature: float, logit_scale: float, world: World = SINGLE_PROCESS
    ) -> None:
        """Makes one pass over all tiles. Collective. `temperature` is t, the factor on c."""
        sums = log_sums(tiles, factor=temperature / logit_scale, world=world)
        self.temperature = temperature
        self.logit_scale = logit_scale
        self.video_sums = torch.from_numpy(sums.video_sums).to(tiles.device)
        self.caption_sums = torch.from_numpy(sums.caption_sums).to(tiles.device)

    def t2v(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        return self._normalised(scores, self.video_sums[videos.first : videos.last])

    def v2t(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        return self._normalised(scores, self.caption_sums[captions][:, None])

    def _normalised(self, scores: Tensor, log_sum: Tensor) -> Tensor:
        cosines = scores.double() / self.logit_scale
        return cosines * (self.temperature * cosines - log_sum).exp()


@dataclass(frozen=True)
class BankSums:
    """A querybank summed up for the candidates of one direction."""

    log_sums: np.ndarray  # float64 [candidates] of exp(beta * c) over the bank
    activated: np.ndarray  # bool [candidates] the best candidate of some query of the bank

    @classmethod
    def for_t2v(
        cls, tiles: Tiles, *, beta: float, logit_scale: float, world: World = SINGLE_PROCESS
    ) -> BankSums:
        """For text to video; `tiles` are bank captions x test videos. Collective."""
        sums = log_sums(tiles, factor=beta / logit_scale, world=world)
        return cls(sums.video_sums, np.isin(np.arange(tiles.num_videos), sums.best_video))

    @classmethod
    def for_v2t(
        cls, tiles: Tiles, *, beta: float, logit_scale: float, world: World = SINGLE_PROCESS
    ) -> BankSums:
        """For video to text; `tiles` are test captions x bank videos. Collective."""
        sums = log_sums(tiles, factor=beta / logit_scale, world=world)
        return cls(sums.caption_sums, np.isin(np.arange(tiles.num_captions), sums.best_caption))


class QueryBank(RawScores):
    """Querybank normalisation. In a direction without a bank, queries are ranked by c."""

    name = "querybank normalisation"
    dtype = torch.float64

    def __init__(
        self,
        plain: Rankings,
        *,
        videos: BankSums | None,
        captions: BankSums | None = None,
        beta: float,
        logit_scale: float,
        dynamic: bool,
    ) -> None:
        """`plain`: rankings without normalisation. The dynamic form needs the best candidates in them."""
        self.videos, self.captions = videos, captions
        self.beta, self.logit_scale = beta, logit_scale
        self.normalised_captions = _normalised_queries(plain.t2v_top, videos, dynamic=dynamic)
        self.normalised_videos = _normalised_queries(plain.v2t_top, captions, dynamic=dynamic)

    def t2v(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        cosines = scores.double() / self.logit_scale
        if self.videos is None:
            return cosines
        sums = torch.from_numpy(self.videos.log_sums[videos.first : videos.last]).to(cosines.device)
        normalised = torch.from_numpy(self.normalised_captions[captions.cpu().numpy()]).to(cosines.device)
        return torch.where(normalised[:, None], self.beta * cosines - sums, cosines)

    def v2t(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        cosines = scores.double() / self.logit_scale
        if self.captions is None:
            return cosines
        sums = torch.from_numpy(self.captions.log_sums[captions.cpu().numpy()]).to(cosines.device)
        normalised = torch.from_numpy(self.normalised_videos[videos.first : videos.last]).to(cosines.device)
        return torch.where(normalised, self.beta * cosines - sums[:, None], cosines)


def _normalised_queries(top: np.ndarray, bank: BankSums | None, *, dynamic: bool) -> np.ndarray:
    """Which queries are normalised: bool [Q]. `top` [Q, K] holds each query's best candidates."""
    if bank is None:
        return np.zeros(len(top), dtype=bool)
    return bank.activated[top[:, 0]] if dynamic else np.ones(len(top), dtype=bool)
