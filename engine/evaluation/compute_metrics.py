"""All that is told of the scores of a split: plain figures, their intervals, post-processed figures.

N captions, V videos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.distributed.world import World
from engine.evaluation.bootstrap import intervals
from engine.evaluation.metrics import all_metrics
from engine.evaluation.normalization import POST_PROCESSING_NOTES, BankSums, DualSoftmax, QueryBank
from engine.evaluation.ranking import SINGLE_PROCESS, Rankings, rank_tiles
from engine.evaluation.similarity import Tiles


@dataclass(frozen=True)
class Bank:
    """A querybank: bank captions x test videos, and test captions x bank videos where there are such."""

    captions: Tiles
    videos: Tiles | None = None
    beta: float = 20.0


@dataclass(frozen=True)
class SplitMetrics:
    """`values`: `all_metrics` by name, post-processed ones after `dsl/`, `qb_norm_static/`,
    `qb_norm_dynamic/`; `intervals`: 95% of the plain ones; `post_processing`: a sentence on each kind."""

    rankings: Rankings
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    post_processing: dict[str, str]


def compute_metrics(
    tiles: Tiles,
    video_of_caption: np.ndarray,
    *,
    logit_scale: float,
    resamples: int = 0,
    dsl_temperature: float | None = None,
    bank: Bank | None = None,
    world: World = SINGLE_PROCESS,
) -> SplitMetrics:
    """Rank and count. Collective. `resamples` 0: no intervals; without `dsl_temperature` or `bank`: plain."""
    plain = rank_tiles(tiles, video_of_caption, world=world)
    values = all_metrics(plain)
    post_processing = {}
    if dsl_temperature is not None:
        scoring = DualSoftmax(tiles, temperature=dsl_temperature, logit_scale=logit_scale, world=world)
        found = all_metrics(rank_tiles(tiles, video_of_caption, world=world, scoring=scoring))
        values.update({f"dsl/{name}": value for name, value in found.items()})
        post_processing["dsl"] = f"temperature {dsl_temperature:g}; {POST_PROCESSING_NOTES['dsl']}"
    if bank is not None:
        found, sentences = _with_bank(
            tiles, video_of_caption, plain, bank, logit_scale=logit_scale, world=world
        )
        values.update(found)
        post_processing.update(sentences)
    limits = intervals(plain, video_of_caption, resamples=resamples) if resamples else {}
    return SplitMetrics(plain, values, limits, post_processing)


def _with_bank(
    tiles: Tiles,
    video_of_caption: np.ndarray,
    plain: Rankings,
    bank: Bank,
    *,
    logit_scale: float,
    world: World,
) -> tuple[dict[str, float], dict[str, str]]:
    """Both forms of querybank normalisation; of a direction without a bank nothing is told."""
    of_videos = BankSums.of_videos(bank.captions, beta=bank.beta, logit_scale=logit_scale, world=world)
    of_captions = (
        BankSums.of_captions(bank.videos, beta=bank.beta, logit_scale=logit_scale, world=world)
        if bank.videos
        else None
    )
    size = f"beta {bank.beta:g}, {bank.captions.num_captions} bank captions"
    size += f", {bank.videos.num_videos} bank videos" if bank.videos else "; text to video only"
    values, post_processing = {}, {}
    for name, dynamic in (("qb_norm_static", False), ("qb_norm_dynamic", True)):
        scoring = QueryBank(
            plain,
            videos=of_videos,
            captions=of_captions,
            beta=bank.beta,
            logit_scale=logit_scale,
            dynamic=dynamic,
        )
        found = all_metrics(rank_tiles(tiles, video_of_caption, world=world, scoring=scoring))
        told = {key: value for key, value in found.items() if of_captions or "t2v/" in key}
        values.update({f"{name}/{key}": value for key, value in told.items()})
        post_processing[name] = f"{size}; {POST_PROCESSING_NOTES[name]}"
    return values, post_processing
