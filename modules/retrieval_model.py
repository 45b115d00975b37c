"""The model of fine-tuning and retrieval: two encoders and in-batch losses (Shen et al. 2023).

Shapes: B clips of this rank, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from common.errors import UserError
from modules import host_masks
from modules.dual_encoder import DualEncoder, Features
from modules.gather import gather, gather_with_grad, rank
from modules.logits import Logits
from modules.losses.batch_loss import BatchLoss
from modules.losses.duplicates import find_duplicates, rows_of_this_rank
from modules.losses.matching import SOFTMAX, frame_text_matching, video_text_matching
from modules.numerics import at_least_float32


class RetrievalModel(DualEncoder):
    """Two encoders, trained to match texts with videos (VTM) and with single frames (FTM).

    Both compute `loss` from logits, cosines to which `logits` applies a factor (without it the constant
    `logit_scale`). A loss of weight 0 is not computed, and parameters that only it would train are frozen.
    With `mask_duplicates`, clips of the same video or with the same text are not used as each other's
    negatives.
    """

    def __init__(
        self,
        visual_encoder: nn.Module,
        text_encoder: nn.Module,
        *,
        use_frame_fea: bool,
        weight_VTM: float = 0.85,
        weight_FTM: float = 0.15,
        logit_scale: float = 100.0,
        logits: Logits | None = None,
        loss: BatchLoss = SOFTMAX,
        mask_duplicates: bool = False,
    ) -> None:
        super().__init__(visual_encoder, text_encoder)
        self.use_frame_fea = use_frame_fea
        self.weights = {"VTM": weight_VTM, "FTM": weight_FTM if use_frame_fea else 0.0}
        self.loss = loss
        self.logits = logits or Logits(logit_scale)
        self.mask_duplicates = mask_duplicates
        if not any(self.weights.values()):
            raise UserError(
                "every loss has weight 0: give VTM a weight, or FTM one together with --use_frame_fea"
            )
        if not self.weights["VTM"]:
            for parameter in visual_encoder.temporal_parameters():  # type: ignore[operator]
                parameter.requires_grad_(False)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """`video` [B, D], `frames` [B, F, D] and `text` [B, D], from `frames`, `text_ids` and their masks."""
        video, frames = self.encode_video(batch["frames"], batch.get("frame_mask"))
        return {
            "video": video,
            "frames": frames,
            "text": self.encode_text(batch["text_ids"], batch.get("text_mask")),
        }

    def losses(self, features: Features, keys: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (with gradient), "VTM" and "FTM" of the batch of all ranks, and what is learned of
        the logits' scale. Their means over the ranks count; most losses are equal on every rank.
        """
        gathered = {name: gather_with_grad(at_least_float32(features[name])) for name in self._gathered()}
        texts, options = self._scored_texts(features, gathered, batch)
        losses: dict[str, Tensor] = {}
        if self.weights["VTM"]:
            losses["VTM"] = video_text_matching(texts, gathered["video"], **options)
        if self.weights["FTM"]:
            mask = host_masks.for_losses(batch.get("frame_mask"), features["frames"].device)
            frame_mask = None if mask is None else gather(mask)
            losses["FTM"] = frame_text_matching(texts, gathered["frames"], frame_mask, **options)
        return with_total(losses, self.weights) | self.logits.learned()

    def after_step(self) -> None:
        """Keep a learned scale in its range."""
        self.logits.limit()

    @property
    def logit_scale(self) -> float | Tensor:
        """The factor on the cosines."""
        return self.logits.scale

    def log_scalars(self) -> dict[str, float]:
        """The logit scale where it is a constant."""
        constant = self.logits.constant
        return {} if constant is None else {"logit_scale": constant}

    def _scored_texts(
        self, features: Features, gathered: Features, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The texts that this rank scores with the clips of all ranks, and how that becomes a loss."""
        mask = find_duplicates(batch) if self.mask_duplicates else None
        texts, first = gathered.get("text"), 0
        if texts is None:
            texts = at_least_float32(features["text"])
            first = rank() * len(texts)
            mask = None if mask is None else rows_of_this_rank(mask, len(texts))
        scale = {"logit_scale": self.logits.scale, "logit_bias": self.logits.bias}
        return texts, {"loss": self.loss, "duplicate_mask": mask, "first": first, **scale}

    def _gathered(self) -> list[str]:
        """Names of the features that are gathered: those that a loss reads of other ranks."""
        loss_of = {"video": "VTM", "frames": "FTM"}
        used = [name for name, loss in loss_of.items() if self.weights[loss]]
        return used if self.loss.by_rows else ["text", *used]


def with_total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Add "loss", the weighted sum, to the losses, which are detached: they are only logged."""
    total = sum(weights[name] * value for name, value in losses.items())
    assert isinstance(total, Tensor)
    return {"loss": total, **{name: value.detach() for name, value in losses.items()}}
