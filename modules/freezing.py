"""Parts of a model that do not learn: a whole encoder, or its embeddings and first layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from modules.backbones.text_encoder import ChineseTextEncoder
from modules.dual_encoder import DualEncoder


def freeze(model: DualEncoder, part: str, layers: int | None = None) -> None:
    """Take `part` ("image", "text", "temporal") out of training; of `layers` N its embeddings and first N.

    Raises `ValueError` naming --freeze where the model has no such part or not so many layers. Momentum
    copies go on following. Dropout of a frozen encoder stays as the model's mode has it.
    """
    embeddings, blocks, rest = _anatomy(model, part)
    if layers is not None and layers > len(blocks):
        raise ValueError(f"--freeze {part}:{layers}: it has {len(blocks)} layers")
    frozen: list[Any] = [*embeddings, *blocks] if layers is None else [*embeddings, *blocks[:layers]]
    for item in [*frozen, *rest] if layers is None else frozen:
        for parameter in item.parameters() if isinstance(item, nn.Module) else [item]:
            parameter.requires_grad_(False)


def _anatomy(model: DualEncoder, part: str) -> tuple[list[Any], list[nn.Module], list[Any]]:
    """(embeddings, layers in order, everything) of a part."""
    if part == "temporal":
        return _temporal(model.visual_encoder)
    if part == "text":
        return _text(model.text_encoder)
    assert part == "image", part
    return _image(model.visual_encoder.visual)


def _temporal(encoder: Any) -> tuple[list[Any], list[nn.Module], list[Any]]:
    if not encoder.use_temp:
        raise ValueError("--freeze temporal: this model has no temporal transformer, which needs --use_temp")
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
    """Whether all parameters are frozen."""
    return not any(parameter.requires_grad for parameter in parameters)
