"""Scores that the field normalises after the fact: dual softmax and querybank normalisation. Blockwise.

N captions, V videos, B bank captions; a tile has n captions and v videos. c is the similarity over the logit
scale: a cosine, plus the mean cosine of the best frames where frames count.

Dual softmax (Cheng et al. 2021, arXiv 2109.04290, as evaluation code applies it): c times its softmax over
all test queries, exp(t c) / sum over queries of exp(t c). The usual t is 100: the softmax of CLIP's logits.
A negative c is made larger by it, where it is made smaller in size: only good answers are told apart.

Querybank normalisation (Bogolin et al. 2022, arXiv 2112.12777): exp(beta c) / sum over the bank of
exp(beta c), here as its logarithm, which ranks alike and cannot overflow. Static: always. Dynamic: where the
query's best candidate is the best one of some query of the bank too (is "activated"), else c itself.
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
    "dsl": "dual softmax looks at all test queries at once: no figure for a system that answers one by one",
    "qb_norm_static": "querybank normalisation looks at a bank of training queries, never at other test "
    "queries; every query is normalised",
    "qb_norm_dynamic": "querybank normalisation looks at a bank of training queries, never at other test "
    "queries; a query is normalised where its best candidate is a best one of the bank",
}


@dataclass(frozen=True)
class LogSums:
    """What one pass over all tiles gathers: float64 log of the sum of exp(factor * score), and the best."""

    of_caption: np.ndarray  # [N] over all videos
    of_video: np.ndarray  # [V] over all captions
    best_video: np.ndarray  # int64 [N], the lower number where equal
    best_caption: np.ndarray  # int64 [V]


@torch.inference_mode()
def log_sums(tiles: Tiles, *, factor: float, world: World = SINGLE_PROCESS) -> LogSums:
    """Both ways at once. Collective: each rank takes its share of videos; all get the whole."""
    first, last = (tiles.num_videos * (world.rank + k) // world.size for k in (0, 1))
    rows = _Running(tiles.num_captions, tiles.device)
    columns = _Running(last - first, tiles.device)
    for videos in tiles.video_tiles(first, last):
        numbers = torch.arange(videos.first, videos.last, device=tiles.device)
        for start in range(0, tiles.num_captions, tiles.height):
            stop = min(start + tiles.height, tiles.num_captions)
            captions = torch.arange(start, stop, device=tiles.device)
            scores = factor * tiles.scores(captions, videos).double()
            rows.update(scores, numbers, slice(start, stop))
            columns.update(scores.T, captions, slice(videos.first - first, videos.last - first))
    rows.over_ranks(world)
    return LogSums(
        of_caption=rows.total.cpu().numpy(),
        of_video=world.gather_rows(columns.total).cpu().numpy(),
        best_video=rows.best.cpu().numpy(),
        best_caption=world.gather_rows(columns.best).cpu().numpy(),
    )


class _Running:
    """Log-sum, largest score and its number for each of a number of queries, candidates shown in tiles."""

    def __init__(self, queries: int, device: torch.device) -> None:
        self.total = torch.full((queries,), -torch.inf, dtype=torch.float64, device=device)
        self.largest = torch.full_like(self.total, -torch.inf)
        self.best = torch.full((queries,), -1, device=device)

    def update(self, scores: Tensor, numbers: Tensor, rows: slice) -> None:
        """Scores [n, m] of the queries `rows` with the candidates `numbers` [m]."""
        self.total[rows] = torch.logaddexp(self.total[rows], scores.logsumexp(dim=1))
        largest = scores.amax(dim=1)
        first = (scores == largest[:, None]).to(torch.uint8).argmax(dim=1)
        better = largest > self.largest[rows]
        self.best[rows] = torch.where(better, numbers[first], self.best[rows])
        self.largest[rows] = torch.where(better, largest, self.largest[rows])

    def over_ranks(self, world: World) -> None:
        """Join the ranks' shares of candidates; lower ranks have the lower numbers."""
        if world.size == 1:
            return
        self.total = world.gather_rows(self.total[None]).logsumexp(dim=0)
        largest, best = world.gather_rows(self.largest[None]), world.gather_rows(self.best[None])
        first = (largest == largest.amax(dim=0)).to(torch.uint8).argmax(dim=0, keepdim=True)
        self.largest, self.best = largest.gather(0, first)[0], best.gather(0, first)[0]


class DualSoftmax(RawScores):
    """c times its softmax over the test queries: captions to rank videos, videos to rank captions."""

    dtype = torch.float64  # the softmax reaches below the smallest float32

    def __init__(
        self, tiles: Tiles, *, temperature: float, logit_scale: float, world: World = SINGLE_PROCESS
    ) -> None:
        """One pass over all tiles; collective. `temperature` is the factor t on c."""
        sums = log_sums(tiles, factor=temperature / logit_scale, world=world)
        self.temperature = temperature
        self.logit_scale = logit_scale
        self.of_video = torch.from_numpy(sums.of_video).to(tiles.device)
        self.of_caption = torch.from_numpy(sums.of_caption).to(tiles.device)

    def t2v(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        return self._normalised(scores, self.of_video[videos.first : videos.last])

    def v2t(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        return self._normalised(scores, self.of_caption[captions][:, None])

    def _normalised(self, scores: Tensor, log_sum: Tensor) -> Tensor:
        cosines = scores.double() / self.logit_scale
        return cosines * (self.temperature * cosines - log_sum).exp()


@dataclass(frozen=True)
class BankSums:
    """What a bank of queries says of the candidates of one direction."""

    log_sums: np.ndarray  # float64 [candidates] over the bank of exp(beta * c)
    activated: np.ndarray  # bool [candidates] best one of some query of the bank

    @classmethod
    def of_videos(cls, tiles: Tiles, **options: object) -> BankSums:
        """Bank captions x test videos: for text to video. Options: beta, logit_scale, world."""
        sums = _bank_pass(tiles, **options)  # type: ignore[arg-type]
        return cls(sums.of_video, _marked(sums.best_video, tiles.num_videos))

    @classmethod
    def of_captions(cls, tiles: Tiles, **options: object) -> BankSums:
        """Test captions x bank videos: for video to text."""
        sums = _bank_pass(tiles, **options)  # type: ignore[arg-type]
        return cls(sums.of_caption, _marked(sums.best_caption, tiles.num_captions))


def _bank_pass(tiles: Tiles, *, beta: float, logit_scale: float, world: World = SINGLE_PROCESS) -> LogSums:
    return log_sums(tiles, factor=beta / logit_scale, world=world)


def _marked(chosen: np.ndarray, count: int) -> np.ndarray:
    marks = np.zeros(count, dtype=bool)
    marks[chosen] = True
    return marks


class QueryBank(RawScores):
    """Querybank normalisation. A direction without a bank keeps its plain scores."""

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
        """`plain` tells each query's best candidate, which is all of it that the dynamic form looks at."""
        self.videos, self.captions = videos, captions
        self.beta, self.logit_scale = beta, logit_scale
        self.normalised_captions = _normalised_queries(plain.t2v_top, videos, dynamic=dynamic)
        self.normalised_videos = _normalised_queries(plain.v2t_top, captions, dynamic=dynamic)

    def t2v(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        cosines = scores.double() / self.logit_scale
        if self.videos is None:
            return cosines
        sums = torch.from_numpy(self.videos.log_sums[videos.first : videos.last]).to(cosines.device)
        chosen = torch.from_numpy(self.normalised_captions[captions.cpu().numpy()]).to(cosines.device)
        return torch.where(chosen[:, None], self.beta * cosines - sums, cosines)

    def v2t(self, scores: Tensor, captions: Tensor, videos: VideoTile) -> Tensor:
        cosines = scores.double() / self.logit_scale
        if self.captions is None:
            return cosines
        sums = torch.from_numpy(self.captions.log_sums[captions.cpu().numpy()]).to(cosines.device)
        chosen = torch.from_numpy(self.normalised_videos[videos.first : videos.last]).to(cosines.device)
        return torch.where(chosen, self.beta * cosines - sums[:, None], cosines)


def _normalised_queries(top: np.ndarray, bank: BankSums | None, *, dynamic: bool) -> np.ndarray:
    """Which queries are normalised: bool [queries]."""
    if bank is None:
        return np.zeros(len(top), dtype=bool)
    return bank.activated[top[:, 0]] if dynamic else np.ones(len(top), dtype=bool)
