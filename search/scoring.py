"""The exact score of candidates: the cosine with the video plus the mean cosine with its best frames.

Equals `modules.heads.hmmc.hmmc_similarity` with a logit scale of 1. C candidates, D joint width,
F frames a video, k best frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.rows import FeatureRows, float32

_BLOCK = 4096  # candidates scored at once: 4096 x 12 x 512 numbers are 100 MB


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
    rows = np.unique(rows)
    best: Scores | None = None
    for start in range(0, len(rows), _BLOCK):
        part = _score_block(features, rows[start : start + _BLOCK], query, top_frames, frame_weight)
        best = _best(part if best is None else _joined(best, part), top)
    return best if best is not None else _score_block(features, rows, query, top_frames, frame_weight)


def best_frames(each_frame: np.ndarray, top_frames: int) -> np.ndarray:
    """The numbers of the k best frames [k] of one video, best first, by their cosines [F]."""
    return np.argsort(-each_frame, kind="stable")[:top_frames]


def _score_block(
    features: FeatureRows, rows: np.ndarray, query: np.ndarray, top_frames: int, frame_weight: float
) -> Scores:
    video = float32(features.video[rows]) @ query
    each = float32(features.frames[rows]) @ query
    count = min(top_frames, each.shape[1])
    frame = np.partition(each, each.shape[1] - count, axis=1)[:, each.shape[1] - count :].mean(axis=1)
    return Scores(rows, video + frame_weight * frame, video, frame, each)


def _joined(first: Scores, second: Scores) -> Scores:
    return Scores(*(np.concatenate(pair) for pair in zip(_arrays(first), _arrays(second), strict=True)))


def _best(scores: Scores, top: int) -> Scores:
    order = np.lexsort((scores.rows, -scores.total))[:top]
    return Scores(*(array[order] for array in _arrays(scores)))


def _arrays(scores: Scores) -> tuple[np.ndarray, ...]:
    return scores.rows, scores.total, scores.video, scores.frame, scores.each_frame
