"""The base of both models: a video encoder and a text encoder with one joint space.

Shapes: B clips or texts, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from modules.backbones.backbone import Backbone
from modules.backbones.bilingual import encode_texts
from modules.heads.head import SimilarityHead

Features = dict[str, Tensor]


class DualEncoder(nn.Module):
    """Two encoders and a similarity head. Subclasses add losses; evaluation needs only these three.

    A training step has two parts, so that a batch can be encoded in chunks (`grad_cache.py`): `encode` and
    `encode_keys` treat every clip by itself, `losses` needs the features of all clips of this rank.
    """

    backbone: Backbone | None = None  # what `visual_encoder` and `text_encoder` were made of

    def __init__(self, visual_encoder: nn.Module, text_encoder: nn.Module, head: SimilarityHead) -> None:
        super().__init__()
        self.visual_encoder = visual_encoder
        self.text_encoder = text_encoder
        self.head = head

    def encode_video(self, frames: Tensor, frame_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Video embeds [B, D] and frame embeds [B, F, D] of `frames` [B, F, 3, S, S]."""
        video_embeds, frame_embeds = self.visual_encoder(frames, frame_mask)
        return video_embeds, frame_embeds

    def encode_text(self, ids: Tensor, mask: Tensor | None = None, language: Tensor | None = None) -> Tensor:
        """Text embeds [B, D] of `ids` [B, W]; a bilingual model needs the `language` [B] of each text."""
        return self.encode_words(ids, mask, language)[0]

    def encode_words(
        self, ids: Tensor, mask: Tensor | None = None, language: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Text embeds [B, D] and word features [B, W, D] of `ids` [B, W], also at padding."""
        return encode_texts(self.text_encoder, ids, mask, language)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Forward pass of a training step; returns what `losses` does."""
        features = self.encode(batch)
        self.update_momentum_encoders()
        return self.losses(features, self.encode_keys(batch), batch)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """Features that the losses need, with gradient. The rows of each are in the order of the clips."""
        raise NotImplementedError

    def encode_keys(self, batch: Mapping[str, Tensor]) -> Features:
        """Features from the momentum encoders that the losses need, without gradient."""
        return {}

    def update_momentum_encoders(self) -> None:
        """Called once a step, between `encode` and `encode_keys`. Models without momentum do nothing."""

    def after_step(self) -> None:
        """Called after each optimiser step, without gradient. Models without limits do nothing."""

    def losses(self, features: Features, keys: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars: "loss", with gradient, every loss by its name, and what else the log shows of the step.

        `keys` are from `encode_keys`.
        """
        raise NotImplementedError

    def log_scalars(self) -> dict[str, float]:
        """Scalars for the log, without any computation on the device."""
        return {}

    def extra_state(self) -> dict[str, int]:
        """Counters that resuming needs and that are not in the state dict, whose names are published."""
        return {}

    def load_extra_state(self, state: Mapping[str, int]) -> None:
        """Set the counters that `extra_state` returned."""
