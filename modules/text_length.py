"""Texts of more tokens than a text tower was trained with: its position embeddings are interpolated.

Shapes: W tokens of a text.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from modules.backbones.backbone import Backbone
from modules.backbones.hf_models import TextTower
from modules.backbones.text_encoder import ClipTextEncoder
from modules.positions import TEXT_POSITIONS_KEPT, resize_positions


def extend_context(backbone: Backbone, words: int) -> Backbone:
    """`backbone` whose text tower takes texts of `words` tokens; it is changed in place.

    CLIP's text towers can be extended: the first positions stay, the others are stretched. Raises `UserError`
    for other towers, of which padding is a part of the text or which have no such positions.
    """
    limit = UserError(f"--max_words {words}: the text encoder takes at most {backbone.context_length} tokens")
    text = backbone.text
    if getattr(text, "reads_padding", False):
        raise limit
    if isinstance(text, ClipTextEncoder):
        parts = backbone.by_language.values()
        beside = [part.context_length for part in parts if not isinstance(part.text, ClipTextEncoder)]
        if beside and words > min(beside):  # the Chinese encoder of a bilingual model is not extended
            raise limit
        if words > text.context_length:
            _extend_clip(text, words)
    elif isinstance(text, TextTower) and hasattr(_embeddings(text), "position_embedding"):
        _extend_hf(text, words)
    else:
        raise limit
    return dataclasses.replace(backbone, context_length=words)


def _extend_clip(text: ClipTextEncoder, words: int) -> None:
    longer = resize_positions(text.positional_embedding, words, kept=TEXT_POSITIONS_KEPT)
    text.positional_embedding = nn.Parameter(longer, requires_grad=text.positional_embedding.requires_grad)
    assert text.attn_mask is not None
    text.attn_mask = causal_mask(words).to(text.attn_mask)
    text.context_length = words


def causal_mask(words: int) -> Tensor:
    """[W, W]: minus infinity above the diagonal, so that no token attends to a later one."""
    return torch.full((words, words), float("-inf")).triu(1)


def _extend_hf(text: TextTower, words: int) -> None:
    embeddings = _embeddings(text)
    weight = embeddings.position_embedding.weight
    longer = resize_positions(weight, words, kept=TEXT_POSITIONS_KEPT)
    embeddings.position_embedding = nn.Embedding.from_pretrained(longer, freeze=not weight.requires_grad)
    embeddings.position_ids = torch.arange(words, device=weight.device).unsqueeze(0)
    text.context_length = words


def _embeddings(text: TextTower) -> Any:
    model: Any = text.text_model
    return model.embeddings
