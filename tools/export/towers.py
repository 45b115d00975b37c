"""The two towers of a model as modules of their own, written so that an exporter sees plain operations.

B inputs, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common.languages import LANGUAGES
from modules.backbones.bilingual import BilingualTextEncoder
from modules.dual_encoder import DualEncoder
from modules.numerics import l2_normalize
from modules.transformer_block import TransformerBlock


class VideoTower(nn.Module):
    """uint8 frames [B, F, 3, S, S] to the video embed [B, D] and frame embeds [B, F, D], of length 1."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.encoder = model.visual_encoder

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        video, each = self.encoder(frames, None)
        return l2_normalize(video.float()), l2_normalize(each.float())


class TextTower(nn.Module):
    """Ids [B, W] of texts of one language, and their mask, to text embeds [B, D] of length 1.

    For heads that weigh words it is the weighted mean, by which a search proposes candidates. Without
    `takes_mask` the mask would change nothing, and there is no such input.
    """

    def __init__(self, model: DualEncoder, language: str) -> None:
        super().__init__()
        self.encoder = model.text_encoder
        self.head = model.head
        self.number = LANGUAGES.index(language)
        self.takes_mask = True

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        if isinstance(self.encoder, BilingualTextEncoder):
            text, words = self.encoder.of_language(self.number, ids, mask)
        else:
            text, words = self.encoder(ids, mask)
        rows = {"text": text.float(), "words": words.float()}
        if mask is not None:
            rows["word_mask"] = mask.bool()
        return l2_normalize(self.head.pooled_text(rows))

    def leave_out_useless_mask(self, ids: Tensor, mask: Tensor) -> None:
        """Set `takes_mask` by whether the mask of these texts, of which some have padding, matters."""
        with torch.no_grad():
            self.takes_mask = not torch.allclose(self(ids, mask), self(ids, None), atol=1e-6)


@contextlib.contextmanager
def plain_blocks(model: nn.Module) -> Iterator[None]:
    """Transformer blocks without fused products: each weight is then the operand of one product, as
    quantisation needs it."""
    blocks = [block for block in model.modules() if isinstance(block, TransformerBlock) and block.fused]
    try:
        for block in blocks:
            block.fused = False
        yield
    finally:
        for block in blocks:
            block.fused = True
