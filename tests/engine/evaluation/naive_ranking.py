"""Ranks counted pair by pair from the full matrix: `engine.evaluation.ranking` must agree with them.

N captions, V videos, F frames.
"""

from __future__ import annotations

import numpy as np
import torch

from engine.evaluation.features import Features
from modules.heads.hmmc import hmmc_similarity
from tests.device import DEVICE


def full_matrix(features: Features, *, top_frames: int = 3, logit_scale: float = 100.0) -> np.ndarray:
    """All scores [N, V] at once."""
    return (
        hmmc_similarity(
            features.text,
            features.video,
            features.frames,
            features.frame_mask,
            top_frames=top_frames,
            logit_scale=logit_scale,
        )
        .cpu()
        .numpy()
    )


def naive_rank(positive: float, rivals: list[float], *, positives: int = 1) -> float:
    """Expected rank of the first of `positives` right answers scored `positive`; ties broken at random."""
    above = sum(rival > positive for rival in rivals)
    equal = sum(rival == positive for rival in rivals)
    return 1 + above + equal / (positives + 1)


def naive_t2v(scores: np.ndarray, owner: np.ndarray) -> np.ndarray:
    return np.array(
        [
            naive_rank(row[v], [s for j, s in enumerate(row) if j != v])
            for row, v in zip(scores, owner, strict=True)
        ]
    )


def naive_v2t(scores: np.ndarray, owner: np.ndarray, *, any_caption: bool = False) -> np.ndarray:
    """Ranks [V] by the best caption, among sets or among all captions."""
    ranks = np.full(scores.shape[1], np.nan)
    for video in set(owner.tolist()):
        column = scores[:, video]
        positives = [s for s, v in zip(column, owner, strict=True) if v == video]
        if any_caption:
            rivals = [s for s, v in zip(column, owner, strict=True) if v != video]
            ranks[video] = naive_rank(max(positives), rivals, positives=positives.count(max(positives)))
        else:
            sets = [max(column[owner == v]) for v in set(owner.tolist()) if v != video]
            ranks[video] = naive_rank(max(positives), sets)
    return ranks


def naive_v2t_ap(scores: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Average precision [V] over all captions, with expected ranks."""
    result = np.full(scores.shape[1], np.nan)
    for video in set(owner.tolist()):
        column = scores[:, video]
        right = [i for i, v in enumerate(owner) if v == video]

        def rank(i: int, among: list[int], column: np.ndarray = column) -> float:
            rivals = [column[k] for k in among if k != i]
            return 1 + sum(r > column[i] for r in rivals) + 0.5 * sum(r == column[i] for r in rivals)

        result[video] = np.mean([rank(i, right) / rank(i, list(range(len(owner)))) for i in right])
    return result


def tied_features(rng: np.random.Generator, captions: int, videos: int, frames: int | None) -> Features:
    """Rows of four +-1. All have length 2, cosines are multiples of a half, and most scores tie."""

    def signs(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.choice([-1.0, 1.0], size=shape)).float().to(DEVICE)

    return _features(rng, signs, captions, videos, frames, width=4)


def random_features(rng: np.random.Generator, captions: int, videos: int, frames: int | None) -> Features:
    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).float().to(DEVICE)

    return _features(rng, normal, captions, videos, frames, width=16)


def _features(rng, draw, captions, videos, frames, *, width) -> Features:  # type: ignore[no-untyped-def]
    if frames is None:
        return Features(draw(captions, width), draw(videos, width))
    mask = None
    if rng.random() < 0.5:
        real = rng.integers(1, frames + 1, size=videos)  # sometimes fewer than top_frames
        mask = torch.from_numpy(np.arange(frames) < real[:, None]).to(DEVICE)
    return Features(draw(captions, width), draw(videos, width), draw(videos, frames, width), mask)
