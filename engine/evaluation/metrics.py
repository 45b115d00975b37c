"""Retrieval metrics of rankings, as pure functions.

N captions, V videos. Names start with the direction: t2v (text to video) or v2t (video to text). Only RSum is
about both directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from common.errors import UserError
from engine.evaluation.ranking import Rankings
from engine.evaluation.ranks import Ranks

RECALL_AT = (1, 5, 10, 50)
IN_SUMS = (1, 5, 10)  # the recalls in GeoMean and RSum, as in the literature
# How the metrics are computed, for the result file.
PROTOCOL = {
    "t2v": "every caption is a query; rank of its video",
    "v2t": "every video is a query; rank of its caption set by its best caption",
    "v2t_any": "every video is a query; rank of its best-placed caption among all captions",
    "mAP": "t2v: mean of 1 / rank; v2t: average precision over all captions, expected ranks where tied",
    "ties": "expected rank and expected recall if ties are broken at random",
    "median": "middle pair averaged",
}
QUERIES = {
    "one_caption": "one caption a video",
    "several_captions": "several captions a video, each a query of its own",
    "paragraph": "all captions of a video joined to one query",
}


PROTOCOLS = ("auto", *QUERIES)


def protocol_of(video_of_caption: np.ndarray, protocol: str = "auto") -> dict[str, str]:
    """`PROTOCOL` with the kind of queries, `protocol`, a key of `QUERIES`. "auto": as the captions are."""
    if protocol == "auto":
        protocol = "several_captions" if np.bincount(video_of_caption).max() > 1 else "one_caption"
    return {"name": protocol, "queries": QUERIES[protocol], **PROTOCOL}


def all_metrics(rankings: Rankings) -> dict[str, float]:
    """Every metric of both directions; recalls and mAP in percent.

    `v2t_any/...` ranks a video's best caption among all captions. If videos have several captions, the
    published code takes the lower of the middle pair as the median rank: `published_t2v/MedianR`. Raises
    `UserError` if no caption is ranked.
    """
    values = {
        **_direction(rankings.t2v, rankings.t2v_ap, direction="t2v"),
        **_direction(rankings.v2t, rankings.v2t_ap, direction="v2t"),
        **summarise(rankings.v2t_any, direction="v2t_any"),
    }
    values["RSum"] = sum(values[f"{direction}/R@{k}"] for direction in ("t2v", "v2t") for k in IN_SUMS)
    if len(rankings.t2v) > len(rankings.v2t.ranked):
        ranks = np.sort(rankings.t2v.expected)
        values["published_t2v/MedianR"] = float(ranks[(len(ranks) - 1) // 2])
    return values


def _direction(ranks: Ranks, precision: np.ndarray, *, direction: str) -> dict[str, float]:
    values = summarise(ranks, direction=direction)
    recalls = [values[f"{direction}/R@{k}"] for k in IN_SUMS]
    return {
        **values,
        f"{direction}/mAP": 100.0 * float(np.nanmean(precision)),
        f"{direction}/GeoMean": math.prod(recalls) ** (1 / len(recalls)),
    }


def recalls(ranks: Ranks, *, direction: str) -> dict[str, float]:
    """Expected R@1, 5, 10, 50 in percent of the ranked queries; queries without a rank do not count."""
    ranks = ranks.ranked
    if not len(ranks):
        raise UserError(f"{direction}: nothing to rank")
    return {f"{direction}/R@{k}": 100.0 * float(ranks.within(k).mean()) for k in RECALL_AT}


def summarise(ranks: Ranks, *, direction: str) -> dict[str, float]:
    """Expected recalls in percent, and MedianR and MeanR of the expected ranks, as `t2v/R@1` and so on.

    Queries without a rank do not count.
    """
    values = recalls(ranks, direction=direction)
    expected = ranks.ranked.expected
    return {
        **values,
        f"{direction}/MedianR": float(np.median(expected)),
        f"{direction}/MeanR": float(expected.mean()),
    }


def format_metrics(values: Mapping[str, float]) -> list[str]:
    """One line for the log for each direction that `values` has."""
    lines = []
    for direction, title in (("t2v", "text to video"), ("v2t", "video to text")):
        if f"{direction}/R@1" not in values:
            continue
        shown = "  ".join(f"R@{k} {values[f'{direction}/R@{k}']:5.1f}" for k in RECALL_AT)
        lines.append(
            f"{title}: {shown}  MedianR {values[f'{direction}/MedianR']:.1f}  "
            f"MeanR {values[f'{direction}/MeanR']:.1f}  mAP {values[f'{direction}/mAP']:.1f}"
        )
    return lines
