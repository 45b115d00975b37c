"""--freeze: exclude an encoder, or its embeddings and first layers, from training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from common.errors import UserError
from modules.backbones.text_encoder import ChineseTextEncoder
from modules.dual_encoder import DualEncoder


def freeze(model: DualEncoder, part: str, layers: int | None = None) -> None:
    """Freeze `part` ("image", "text", "temporal"); with `layers` N only its embeddings and first N layers.

    Raises `UserError` where the model has no such part or fewer layers. Momentum encoders are still updated.
    A frozen encoder keeps its dropout while training.
    """
    embeddings, blocks, encoder = _parts(model, part)
    if layers is not None and layers > len(blocks):
        raise UserError(f"--freeze {part}:{layers}: it has {len(blocks)} layers")
    frozen = [*embeddings, *blocks, *encoder] if layers is None else [*embeddings, *blocks[:layers]]
    for item in frozen:
        for parameter in item.parameters() if isinstance(item, nn.Module) else [item]:
            parameter.requires_grad_(False)


def _parts(model: DualEncoder, part: str) -> tuple[list[Any], list[nn.Module], list[Any]]:
    """Embeddings, layers in order, and the other modules of `part`."""
    if part == "temporal":
        return _temporal(model.visual_encoder)
    if part == "text":
        return _text(model.text_encoder)
    assert part == "image", part
    return _image(model.visual_encoder.visual)


def _temporal(encoder: Any) -> tuple[list[Any], list[nn.Module], list[Any]]:
    if not encoder.use_temp:
        raise UserError("--freeze temporal: this model has no temporal transformer, which needs --use_temp")
    blocks = list(encoder.temporal_transformer.resblocks)
    return [encoder.frame_position_embeddings], blocks, []


def _text(encoder: Any) -> tuple[list[Any], list[nn.Module], list[Any]]:
    if isinstance(encoder, ChineseTextEncoder):
        bert: Any = encoder.chinese_encoder
        return [bert.embeddings], list(bert.encoder.layer), [encoder]
    embeddings = [encoder.token_embedding, encoder.positional_embedding]
    return embeddings, list(encoder.transformer.resblocks), [encoder]


def _image(visual: Any) -> tuple[list[Any], list[nn.Module], list[Any]]:
    if not hasattr(visual, "transformer"):  # a ResNet, or a tower of timm's
        return [], [], [visual]
    embeddings = [visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre]
    return embeddings, list(visual.transformer.resblocks), [visual]


def nothing_learns(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether no parameter is trained."""
    return not any(parameter.requires_grad for parameter in parameters)
