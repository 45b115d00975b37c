"""The model of fine-tuning and retrieval: two encoders and in-batch losses (Shen et al. 2023).

Shapes: B clips of this rank, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.errors import UserError
from modules import host_masks
from modules.dual_encoder import DualEncoder, Features
from modules.gather import gather, gather_with_grad, rank
from modules.heads.head import TEXT_KEYS, VIDEO_KEYS, HeadOptions, SimilarityHead
from modules.heads.hmmc import HmmcHead
from modules.logits import Logits
from modules.losses.batch_loss import BatchLoss
from modules.losses.duplicates import find_duplicates, find_other_languages, rows_of_this_rank
from modules.losses.softmax import SoftmaxLoss
from modules.numerics import at_least_float32

SOFTMAX = SoftmaxLoss()


class RetrievalModel(DualEncoder):
    """Two encoders and a head, trained to match texts with videos by in-batch losses.

    HMMC's head has two: texts with videos (VTM) and with single frames (FTM); other heads have VTM of their
    similarity. Each is `loss` of logits: the similarity times the factor of `logits` (without it the constant
    `logit_scale`). A loss of weight 0 is not computed, and parameters that only it would train are frozen.
    With `mask_duplicates`, clips of the same video or with the same text are not used as each other's
    negatives. Neither are clips with texts of different languages: at the start the texts of one language are
    all nearer to any video than those of the other, and an untrained model would first have to undo that.
    """

    def __init__(
        self,
        visual_encoder: nn.Module,
        text_encoder: nn.Module,
        *,
        use_frame_fea: bool,
        head: SimilarityHead | None = None,
        weight_VTM: float = 0.85,
        weight_FTM: float = 0.15,
        logit_scale: float = 100.0,
        logits: Logits | None = None,
        loss: BatchLoss = SOFTMAX,
        mask_duplicates: bool = False,
    ) -> None:
        """`head`: by default HMMC's, with `use_frame_fea`."""
        width = int(visual_encoder.embed_dim)  # type: ignore[arg-type]
        head = head or HmmcHead(HeadOptions(use_frame_fea=use_frame_fea), width)
        super().__init__(visual_encoder, text_encoder, head)
        self.use_frame_fea = use_frame_fea
        self.weights = {"VTM": weight_VTM, "FTM": weight_FTM if "FTM" in head.terms else 0.0}
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
        if not head.reads("text"):
            for parameter in text_encoder.pooler_parameters():  # type: ignore[operator]
                parameter.requires_grad_(False)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """`video` [B, D], `frames` [B, F, D], `text` [B, D], and `words` [B, W, D] if the head reads them.

        From `frames`, `text_ids` and their masks.
        """
        video, frames = self.encode_video(batch["frames"], batch.get("frame_mask"))
        text, words = self.encode_words(batch["text_ids"], batch.get("text_mask"), batch.get("language"))
        features = {"video": video, "frames": frames, "text": text}
        return features | {"words": words} if self.head.reads("words") else features

    def losses(self, features: Features, keys: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (with gradient), each loss by its name of the batch of all ranks, and what is
        learned of the logits' scale. Their means over the ranks count; most losses are equal on every rank.
        """
        names = [name for name, weight in self.weights.items() if weight]
        read = frozenset[str]().union(*map(self.head.term_keys, names))
        features = features | self._masks(batch, features["frames"].device)
        videos = {name: _gathered(features[name]) for name in VIDEO_KEYS if name in read & features.keys()}
        texts = {name: features[name] for name in TEXT_KEYS if name in read & features.keys()}
        excluded, first = self._excluded(batch, features["frames"].device), 0
        if self.loss.by_rows:  # this rank scores its own texts with the clips of all ranks
            clips = len(batch["text_ids"])
            first = rank() * clips
            excluded = None if excluded is None else rows_of_this_rank(excluded, clips)
            texts = {name: at_least_float32(rows) for name, rows in texts.items()}
        else:
            texts = {name: _gathered(rows) for name, rows in texts.items()}
        losses = {}
        for name in names:
            term = self.head.term(name, texts, videos, scale=self.logits.scale)
            scaled = self.logits.with_bias(term.similarity)
            losses[name] = self.loss(scaled, excluded=excluded, real=term.real, first=first)
        return with_total(losses, self.weights) | self.logits.learned()

    def _excluded(self, batch: Mapping[str, Tensor], device: torch.device) -> Tensor | None:
        """Pairs [N, N] that are no negatives: duplicates, and pairs with texts of different languages."""
        masks = [find_other_languages(batch, device)]
        if self.mask_duplicates:
            masks.append(find_duplicates(batch))
        present = [mask for mask in masks if mask is not None]
        return torch.stack(present).any(dim=0) if present else None

    def _masks(self, batch: Mapping[str, Tensor], device: torch.device) -> Features:
        """The masks that the batch has, on the device, under the names of the head."""
        masks = {"frame_mask": host_masks.for_losses(batch.get("frame_mask"), device)}
        if self.head.reads("word_mask") and "text_mask" in batch:
            masks["word_mask"] = batch["text_mask"].bool()
        return {name: mask for name, mask in masks.items() if mask is not None}

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


def _gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks, with gradient if they are features and no mask."""
    return gather(rows) if rows.dtype == torch.bool else gather_with_grad(at_least_float32(rows))


def with_total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Add "loss", the weighted sum, to the losses, which are detached: they are only logged."""
    total = sum(weights[name] * value for name, value in losses.items())
    assert isinstance(total, Tensor)
    return {"loss": total, **{name: value.detach() for name, value in losses.items()}}
