"""--grad_checkpointing: recompute activations in the backward pass, which saves memory and costs time."""

from __future__ import annotations

from typing import Any

from common.errors import UserError
from modules.backbones.text_encoder import ChineseTextEncoder
from modules.dual_encoder import DualEncoder


def checkpoint_activations(model: DualEncoder) -> None:
    """Checkpoint the layers of image tower, temporal transformer and text encoder: only inputs are kept.

    Momentum encoders run without gradient, so they keep nothing anyway. Raises `UserError` for an image tower
    without this option.
    """
    visual: Any = model.visual_encoder
    try:
        visual.visual.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        name = type(visual.visual).__name__
        raise UserError(f"--grad_checkpointing: an image tower of type {name} does not support it") from None
    if visual.use_temp:
        visual.temporal_transformer.grad_checkpointing = True
    text: Any = model.text_encoder
    if isinstance(text, ChineseTextEncoder):  # also of a bilingual model, which is both
        bert: Any = text.chinese_encoder
        options = {"use_reentrant": False}
        if hasattr(bert, "activation_checkpointing_enable"):  # its name in transformers 5
            bert.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            bert.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    if hasattr(text, "transformer"):
        transformer: Any = text.transformer
        transformer.grad_checkpointing = True
