"""Fine-tuning and retrieval: two encoders and in-batch losses (METHOD section 3).

Shapes: B clips of this rank, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from modules.dual_encoder import DualEncoder, Features
from modules.gather import gather, gather_with_grad
from modules.losses.duplicates import find_duplicates
from modules.losses.matching import frame_text_matching, video_text_matching
from modules.numerics import at_least_float32


class RetrievalModel(DualEncoder):
    """Video and text encoders, trained to match texts with whole videos (VTM) and single frames (FTM).

    A loss of weight 0 is not computed, and what only it would train is frozen. With `mask_duplicates` the
    clips of one video, and those with one text, are no negatives of each other.
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
        mask_duplicates: bool = False,
    ) -> None:
        super().__init__(visual_encoder, text_encoder)
        self.use_frame_fea = use_frame_fea
        self.weights = {"VTM": weight_VTM, "FTM": weight_FTM if use_frame_fea else 0.0}
        self.logit_scale = logit_scale
        self.mask_duplicates = mask_duplicates
        if not any(self.weights.values()):
            raise ValueError(
                "every loss has weight 0: give VTM a weight, or FTM one together with --use_frame_fea"
            )
        if not self.weights["VTM"]:
            for parameter in visual_encoder.temporal_parameters():  # type: ignore[operator]
                parameter.requires_grad_(False)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """`video` [B, D], `frames` [B, F, D] and `text` [B, D] of `frames`, `text_ids` and their masks."""
        video, frames = self.encode_video(batch["frames"], batch.get("frame_mask"))
        return {
            "video": video,
            "frames": frames,
            "text": self.encode_text(batch["text_ids"], batch.get("text_mask")),
        }

    def losses(self, features: Features, keys: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (with gradient), "VTM" and "FTM" over the batch of all ranks, the same on each."""
        whole = {name: gather_with_grad(at_least_float32(rows)) for name, rows in self._used(features)}
        same = find_duplicates(batch) if self.mask_duplicates else None
        losses: dict[str, Tensor] = {}
        if self.weights["VTM"]:
            losses["VTM"] = video_text_matching(
                whole["text"], whole["video"], logit_scale=self.logit_scale, same=same
            )
        if self.weights["FTM"]:
            mask = gather(batch["frame_mask"]) if "frame_mask" in batch else None
            losses["FTM"] = frame_text_matching(
                whole["text"], whole["frames"], mask, logit_scale=self.logit_scale, same=same
            )
        return with_total(losses, self.weights)

    def log_scalars(self) -> dict[str, float]:
        """The logit scale, which is a constant here."""
        return {"logit_scale": self.logit_scale}

    def _used(self, features: Features) -> list[tuple[str, Tensor]]:
        """What some loss reads: gathering the rest would cost time for nothing."""
        loss_of = {"video": "VTM", "frames": "FTM"}
        return [(n, rows) for n, rows in features.items() if n not in loss_of or self.weights[loss_of[n]]]


def with_total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """ "loss", the weighted sum with gradient, and the single terms, detached, for the log."""
    total = sum(weights[name] * value for name, value in losses.items())
    assert isinstance(total, Tensor)
    return {"loss": total, **{name: value.detach() for name, value in losses.items()}}
