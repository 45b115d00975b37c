"""The whole matrix, counted one pair at a time: what `engine.evaluation.ranking` must agree with."""

from __future__ import annotations

import numpy as np
import torch

from engine.evaluation.features import Features
from modules.heads.hmmc import hmmc_similarity


def whole_matrix(made: Features, *, top_frames: int = 3, logit_scale: float = 100.0) -> np.ndarray:
    """Scores [N, V] of everything at once."""
    return hmmc_similarity(
        made.text, made.video, made.frames, made.frame_mask, top_frames=top_frames, logit_scale=logit_scale
    ).numpy()


def naive_rank(own: float, rivals: list[float], *, own_equals: int = 1) -> float:
    """Expected place of the first of `own_equals` right answers scored `own`, ties broken at random."""
    above = sum(rival > own for rival in rivals)
    equal = sum(rival == own for rival in rivals)
    return 1 + above + equal / (own_equals + 1)


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
        own = [s for s, v in zip(column, owner, strict=True) if v == video]
        if any_caption:
            rivals = [s for s, v in zip(column, owner, strict=True) if v != video]
            ranks[video] = naive_rank(max(own), rivals, own_equals=own.count(max(own)))
        else:
            sets = [max(column[owner == v]) for v in set(owner.tolist()) if v != video]
            ranks[video] = naive_rank(max(own), sets)
    return ranks


def naive_v2t_ap(scores: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Average precision [V] over all captions, expected ranks in the place of ranks."""
    result = np.full(scores.shape[1], np.nan)
    for video in set(owner.tolist()):
        column = scores[:, video]
        mine = [i for i, v in enumerate(owner) if v == video]

        def place(i: int, among: list[int], column: np.ndarray = column) -> float:
            rivals = [column[k] for k in among if k != i]
            return 1 + sum(r > column[i] for r in rivals) + 0.5 * sum(r == column[i] for r in rivals)

        result[video] = np.mean([place(i, mine) / place(i, list(range(len(owner)))) for i in mine])
    return result


def tied_features(rng: np.random.Generator, captions: int, videos: int, frames: int | None) -> Features:
    """Rows of +-1, 4 wide: all have length 2, cosines are multiples of a half, and most scores are tied."""

    def signs(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.choice([-1.0, 1.0], size=shape)).float()

    return _features(rng, signs, captions, videos, frames, width=4)


def random_features(rng: np.random.Generator, captions: int, videos: int, frames: int | None) -> Features:
    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).float()

    return _features(rng, normal, captions, videos, frames, width=16)


def _features(rng, draw, captions, videos, frames, *, width) -> Features:  # type: ignore[no-untyped-def]
    if frames is None:
        return Features(draw(captions, width), draw(videos, width))
    mask = None
    if rng.random() < 0.5:
        real = rng.integers(1, frames + 1, size=videos)  # at times fewer than the frames that count
        mask = torch.from_numpy(np.arange(frames) < real[:, None])
    return Features(draw(captions, width), draw(videos, width), draw(videos, frames, width), mask)
