"""All metrics of a split: plain metrics, their intervals, and metrics of post-processed scores.

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
    """A querybank: bank captions x test videos and, if the bank has videos, test captions x bank videos."""

    captions: Tiles
    videos: Tiles | None = None
    beta: float = 20.0


@dataclass(frozen=True)
class SplitMetrics:
    """The metrics of a split.

    `values` holds `all_metrics` by name; names of post-processed ones start with `dsl/`, `qb_norm_static/` or
    `qb_norm_dynamic/`. `intervals` are the 95% intervals of the plain metrics. `post_processing` explains
    each kind of post-processing in a sentence.
    """

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
    """Rank and compute the metrics. Collective.

    `resamples` 0: no intervals. `dsl_temperature` None: no dual softmax. `bank` None: no querybank
    normalisation.
    """
    plain = rank_tiles(tiles, video_of_caption, world=world)
    values = all_metrics(plain)
    post_processing = {}
    if dsl_temperature is not None:
        scoring = DualSoftmax(tiles, temperature=dsl_temperature, logit_scale=logit_scale, world=world)
        metrics = all_metrics(rank_tiles(tiles, video_of_caption, world=world, scoring=scoring))
        values.update({f"dsl/{name}": value for name, value in metrics.items()})
        post_processing["dsl"] = f"temperature {dsl_temperature:g}; {POST_PROCESSING_NOTES['dsl']}"
    if bank is not None:
        bank_values, sentences = _with_bank(
            tiles, video_of_caption, plain, bank, logit_scale=logit_scale, world=world
        )
        values.update(bank_values)
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
    """Metrics and sentences of both forms of querybank normalisation, for the directions with a bank."""
    t2v = BankSums.for_t2v(bank.captions, beta=bank.beta, logit_scale=logit_scale, world=world)
    v2t = (
        BankSums.for_v2t(bank.videos, beta=bank.beta, logit_scale=logit_scale, world=world)
        if bank.videos
        else None
    )
    size = f"beta {bank.beta:g}, {bank.captions.num_captions} bank captions"
    size += f", {bank.videos.num_videos} bank videos" if bank.videos else "; text to video only"
    values, post_processing = {}, {}
    for name, dynamic in (("qb_norm_static", False), ("qb_norm_dynamic", True)):
        scoring = QueryBank(
            plain,
            videos=t2v,
            captions=v2t,
            beta=bank.beta,
            logit_scale=logit_scale,
            dynamic=dynamic,
        )
        metrics = all_metrics(rank_tiles(tiles, video_of_caption, world=world, scoring=scoring))
        for key, value in metrics.items():
            if v2t is not None or "t2v/" in key:
                values[f"{name}/{key}"] = value
        post_processing[name] = f"{size}; {POST_PROCESSING_NOTES[name]}"
    return values, post_processing
