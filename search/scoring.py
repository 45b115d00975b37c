"""The exact score of candidates: the cosine with the video plus the mean cosine with its best frames.

Equals `modules.heads.hmmc.hmmc_similarity` with a logit scale of 1. C candidates, D joint width,
F frames a video, k best frames. Most candidates are left out by a first score in half precision, in which
the features are stored: its error is bounded, so the best rows and their scores are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from search.rows import FeatureRows, float32

_BLOCK = 4096  # candidates scored at once: 4096 x 12 x 512 numbers are 100 MB
_IN_ORDER = 65_536  # rows scored at once where all are read in order: nothing is copied
# Largest error of a cosine in half precision: rounding the query and rounding the product are 2^-11 each.
_HALF_ERROR = 2.0**-9


@dataclass(frozen=True)
class Scores:
    """Scores of rows, best first: `rows`, `total`, `video`, `frame` [C]; cosines `each_frame` [C, F]."""

    rows: np.ndarray
    total: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    each_frame: np.ndarray


def score_rows(
    features: FeatureRows,
    rows: np.ndarray,
    query: np.ndarray,
    *,
    top: int,
    top_frames: int,
    frame_weight: float,
) -> Scores:
    """The best `top` of `rows` for `query` [D]; ties in the order of rows.

    score = cos(query, video) + `frame_weight` x mean of the `top_frames` largest cos(query, frame).
    """
    rows = _promising(features, np.unique(rows), query, top, top_frames, frame_weight)
    best: Scores | None = None
    for start in range(0, len(rows), _BLOCK):
        part = _score_block(features, rows[start : start + _BLOCK], query, top_frames, frame_weight)
        best = _best(part if best is None else _joined(best, part), top)
    return best if best is not None else _score_block(features, rows, query, top_frames, frame_weight)


def with_totals(scores: Scores, totals: np.ndarray, *, top: int) -> Scores:
    """`scores` with other `totals` [C], by which the best `top` are chosen anew."""
    return _best(replace(scores, total=totals), top)


def best_frames(each_frame: np.ndarray, top_frames: int) -> np.ndarray:
    """The numbers of the k best frames [k] of one video, best first, by their cosines [F]."""
    return np.argsort(-each_frame, kind="stable")[:top_frames]


def _promising(
    features: FeatureRows,
    rows: np.ndarray,
    query: np.ndarray,
    top: int,
    top_frames: int,
    frame_weight: float,
) -> np.ndarray:
    """`rows` without those that cannot be among the best `top`: all that are, and some more."""
    if len(rows) <= top:
        return rows
    half = torch.from_numpy(query).half()
    most = 2 * len(rows) >= features.rows  # reading all rows in order is faster than picking most of them
    parts: list[np.ndarray] = []
    step = _IN_ORDER if most else _BLOCK
    for start in range(0, features.rows if most else len(rows), step):
        part = slice(start, start + step)
        parts.append(_rough_scores(features, part if most else rows[part], half, top_frames, frame_weight))
    rough = np.concatenate(parts)
    rough = np.nan_to_num(rough[rows] if most else rough, nan=-np.inf)
    last = np.partition(rough, len(rows) - top)[len(rows) - top]
    return rows[rough >= last - 2 * (1 + frame_weight) * _HALF_ERROR]


def _rough_scores(
    features: FeatureRows, rows: np.ndarray | slice, half: torch.Tensor, top_frames: int, frame_weight: float
) -> np.ndarray:
    """The scores of `rows` with products in half precision, for the query `half` [D]: float32."""
    frames = features.frames[rows]
    each = torch.from_numpy(frames).flatten(0, 1) @ half
    video = torch.from_numpy(features.video[rows]) @ half
    frame = _mean_of_best(each.float().numpy().reshape(frames.shape[:2]), top_frames)
    return video.float().numpy() + np.float32(frame_weight) * frame


def _mean_of_best(each_frame: np.ndarray, top_frames: int) -> np.ndarray:
    """The mean [C] of the k largest of each row of `each_frame` [C, F]."""
    first = each_frame.shape[1] - min(top_frames, each_frame.shape[1])
    return np.asarray(np.partition(each_frame, first, axis=1)[:, first:].mean(axis=1))


def _score_block(
    features: FeatureRows, rows: np.ndarray, query: np.ndarray, top_frames: int, frame_weight: float
) -> Scores:
    video = float32(features.video[rows]) @ query
    each = float32(features.frames[rows]) @ query
    frame = _mean_of_best(each, top_frames)
    return Scores(rows, video + frame_weight * frame, video, frame, each)


def _joined(first: Scores, second: Scores) -> Scores:
    return Scores(*(np.concatenate(pair) for pair in zip(_arrays(first), _arrays(second), strict=True)))


def _best(scores: Scores, top: int) -> Scores:
    order = np.lexsort((scores.rows, -scores.total))[:top]
    return Scores(*(array[order] for array in _arrays(scores)))


def _arrays(scores: Scores) -> tuple[np.ndarray, ...]:
    return scores.rows, scores.total, scores.video, scores.frame, scores.each_frame
