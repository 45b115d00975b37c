"""HMMC's similarity of texts and videos: the video plus its best frames (Shen et al. 2023).

Shapes: N texts, V videos, F frames, D joint width.
Masks [V, F] are True on real frames; None means that all are real. All results are float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.numerics import l2_normalize, without_autocast


@torch.no_grad()
@without_autocast
def hmmc_similarity(
    text: Tensor,
    video: Tensor,
    frames: Tensor | None = None,
    frame_mask: Tensor | None = None,
    *,
    top_frames: int,
    logit_scale: float,
) -> Tensor:
    """Similarity [N, V] of a block of texts [N, D] and videos [V, D].

    s * cos(text, video), plus, with `frames` [V, F, D], the mean over the `top_frames` largest
    s * cos(text, frame). A video with fewer real frames takes the mean over all of them.
    """
    return similarity_of_unit_vectors(
        logit_scale * l2_normalize(text),
        l2_normalize(video),
        None if frames is None else l2_normalize(frames).transpose(0, 1),
        frame_mask,
        top_frames=top_frames,
    )


@torch.no_grad()
@without_autocast
def similarity_of_unit_vectors(
    text: Tensor,
    video: Tensor,
    frames: Tensor | None = None,
    frame_mask: Tensor | None = None,
    *,
    top_frames: int,
) -> Tensor:
    """`hmmc_similarity` of vectors that are normalised already; the texts are also multiplied by the scale.

    `text` [N, D], `video` [V, D], `frames` [F, V, D] (frames first), `frame_mask` [V, F]. Memory is
    `top_frames` + 3 matrices [N, V], never N x V x F numbers: the best scores so far are kept sorted, and
    each further frame is inserted by maximum and minimum. This is exact and, on a CPU, much faster than
    `topk`.
    """
    similarity = text @ video.T
    if frames is None:
        return similarity
    best = _best_frame_scores(text, frames, frame_mask, count=min(top_frames, len(frames)))
    if frame_mask is None:
        return similarity.add_(_sum(best).div_(len(best)))
    averaged = frame_mask.sum(dim=1).clamp(max=len(best))  # [V]: how many scores a video's mean is over
    total = _sum([scores.masked_fill_(averaged <= place, 0.0) for place, scores in enumerate(best)])
    return similarity.add_(total.div_(averaged.clamp(min=1)))


def _best_frame_scores(
    text: Tensor, frames: Tensor, frame_mask: Tensor | None, *, count: int
) -> list[Tensor]:
    """The `count` largest scores of every text with the frames of every video, largest first, each [N, V]."""
    best: list[Tensor] = []
    spare = text.new_empty(len(text), frames.shape[1])
    for position, frame in enumerate(frames):
        scores = text @ frame.T
        if frame_mask is not None:
            scores.masked_fill_(~frame_mask[:, position], torch.finfo(scores.dtype).min)
        for place, held in enumerate(best):
            best[place] = torch.maximum(held, scores, out=spare)
            torch.minimum(held, scores, out=scores)
            spare = held
        if len(best) < count:
            best.append(scores)
    return best


def _sum(matrices: list[Tensor]) -> Tensor:
    """The sum of `matrices`; it overwrites the first one."""
    total = matrices[0]
    for matrix in matrices[1:]:
        total += matrix
    return total
