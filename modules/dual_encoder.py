"""What every model here is: a video encoder and a text encoder into one space.

Shapes: B clips or texts, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

Features = dict[str, Tensor]


class DualEncoder(nn.Module):
    """Two encoders side by side; models add their losses. Evaluation needs nothing else.

    A training step has two parts, so that clips can be encoded a few at a time (`grad_cache.py`):
    `encode` and `encode_keys` work clip by clip, `losses` on the features of all clips of this rank.
    """

    def __init__(self, visual_encoder: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.visual_encoder = visual_encoder
        self.text_encoder = text_encoder

    def encode_video(self, frames: Tensor, frame_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Video embeds [B, D] and frame embeds [B, F, D] of `frames` [B, F, 3, S, S]."""
        video_embeds, frame_embeds = self.visual_encoder(frames, frame_mask)
        return video_embeds, frame_embeds

    def encode_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Text embeds [B, D] of `ids` [B, W]."""
        text_embeds: Tensor = self.text_encoder(ids, mask)[0]
        return text_embeds

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One training step's forward pass: scalars "loss" (with gradient) and the losses by name."""
        features = self.encode(batch)
        self.update_momentum_encoders()
        return self.losses(features, self.encode_keys(batch), batch)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """What the losses need of each clip, with gradient. The rows of each feature follow the clips."""
        raise NotImplementedError

    def encode_keys(self, batch: Mapping[str, Tensor]) -> Features:
        """What the losses need of each clip from momentum encoders, without gradient."""
        return {}

    def update_momentum_encoders(self) -> None:
        """Once a step, between `encode` and `encode_keys`: momentum encoders follow."""

    def losses(self, features: Features, keys: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (with gradient) and the losses by name, from the features of all clips."""
        raise NotImplementedError

    def log_scalars(self) -> dict[str, float]:
        """Figures to watch a run by; costs nothing."""
        return {}

    def extra_state(self) -> dict[str, int]:
        """Counters that a resumed run needs and that no published checkpoint has."""
        return {}

    def load_extra_state(self, state: Mapping[str, int]) -> None:
        """Take up `extra_state`'s counters."""
