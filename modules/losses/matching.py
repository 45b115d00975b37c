"""Text-video matching with a queue: the losses VTM, FTM and FAM of pre-training (Shen et al. 2023).

Shapes: B clips of this rank, F frames, D joint width, K clips in the queue.
Masks [.., F] are True on real frames; None means that all are real. All results are float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.gather import mean_over_ranks
from modules.losses.contrastive import Negatives, negative_logsumexp, queue_cross_entropy
from modules.numerics import without_autocast


@without_autocast
def queue_video_text_matching(
    video: Tensor,
    text: Tensor,
    video_key: Tensor,
    text_key: Tensor,
    *,
    video_queue: Negatives,
    text_queue: Negatives,
    temperature: float,
) -> Tensor:
    """VTM of pre-training: C(v, t_k, Q_text) + C(t, v_k, Q_video); a scalar.

    C is `queue_cross_entropy`; v, t and their keys v_k, t_k are [B, D], the queues [D, K].
    """
    video_negatives = negative_logsumexp(video, text_queue, temperature=temperature)
    text_negatives = negative_logsumexp(text, video_queue, temperature=temperature)
    video_loss = queue_cross_entropy(video, text_key, video_negatives, temperature=temperature)
    text_loss = queue_cross_entropy(text, video_key, text_negatives, temperature=temperature)
    return (video_loss + text_loss).mean()


@without_autocast
def queue_frame_text_matching(
    frames: Tensor,
    text: Tensor,
    frame_keys: Tensor,
    text_key: Tensor,
    *,
    frame_queue: Negatives,
    text_queue: Negatives,
    temperature: float,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """FTM of pre-training: mean over real frames i of C(t, f_k[i], Q_frame) + C(f[i], t_k, Q_text); a scalar.

    `frames`, `frame_keys` [B, F, D]; `text`, `text_key` [B, D]; the queues [D, K * F] and [D, K].
    """
    # The text's negatives do not depend on the frame, so they are computed once and not F times.
    text_negatives = negative_logsumexp(text, frame_queue, temperature=temperature).unsqueeze(1)
    frame_negatives = negative_logsumexp(frames, text_queue, temperature=temperature)
    text_loss = queue_cross_entropy(text.unsqueeze(1), frame_keys, text_negatives, temperature=temperature)
    frame_loss = queue_cross_entropy(frames, text_key.unsqueeze(1), frame_negatives, temperature=temperature)
    return mean_over_ranks(text_loss + frame_loss, frame_mask)


@without_autocast
def frame_adjacency_matching(
    predictions: Tensor,
    keys: Tensor,
    *,
    queue: Negatives,
    temperature: float,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """FAM: mean over neighbours i, j = i + 1 of C(u[i], p_k[j], Q_proj) + C(u[j], p_k[i], Q_proj); a scalar.

    `predictions` u and `keys` p_k [B, F, D], `queue` [D, K * F]. Only pairs of real frames count; without any
    the loss is 0.
    """
    negatives = negative_logsumexp(predictions, queue, temperature=temperature)
    forward = queue_cross_entropy(
        predictions[:, :-1], keys[:, 1:], negatives[:, :-1], temperature=temperature
    )
    backward = queue_cross_entropy(
        predictions[:, 1:], keys[:, :-1], negatives[:, 1:], temperature=temperature
    )
    if frame_mask is None:
        frame_mask = torch.ones(predictions.shape[:2], dtype=torch.bool, device=predictions.device)
    return mean_over_ranks(forward + backward, frame_mask[:, :-1] & frame_mask[:, 1:])
