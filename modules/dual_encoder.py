"""What every model here is: a video encoder and a text encoder into one space.

Shapes: B clips or texts, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

from torch import Tensor, nn


class DualEncoder(nn.Module):
    """Two encoders side by side; models add their losses. Evaluation needs nothing else."""

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
