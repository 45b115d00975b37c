"""VTM and FTM of fine-tuning from features, as `RetrievalModel` computes them with HMMC's head."""

from __future__ import annotations

from torch import Tensor

from modules.heads.hmmc import hmmc_head
from modules.losses.batch_loss import BatchLoss
from modules.losses.softmax import SoftmaxLoss


def video_text_matching(text: Tensor, video: Tensor, **options: object) -> Tensor:
    return _loss("VTM", {"text": text}, {"video": video}, **options)  # type: ignore[arg-type]


def frame_text_matching(
    text: Tensor, frames: Tensor, frame_mask: Tensor | None = None, **options: object
) -> Tensor:
    mask = {} if frame_mask is None else {"frame_mask": frame_mask}
    return _loss("FTM", {"text": text}, {"frames": frames, **mask}, **options)  # type: ignore[arg-type]


def _loss(
    name: str,
    text: dict[str, Tensor],
    video: dict[str, Tensor],
    *,
    logit_scale: float | Tensor,
    logit_bias: Tensor | None = None,
    loss: BatchLoss | None = None,
) -> Tensor:
    term = hmmc_head().term(name, text, video, scale=logit_scale)
    logits = term.similarity if logit_bias is None else term.similarity + logit_bias
    return (loss or SoftmaxLoss())(logits, real=term.real)
