"""Activations recomputed in the backward pass: less memory for one more forward pass."""

from __future__ import annotations

from typing import Any

from modules.backbones.text_encoder import ChineseTextEncoder
from modules.dual_encoder import DualEncoder


def checkpoint_activations(model: DualEncoder) -> None:
    """Keep only the inputs of the layers of image tower, temporal transformer and text encoder.

    Key encoders run without gradient and keep nothing anyway. Raises `ValueError` naming the flag for an
    image tower that does not know how.
    """
    visual: Any = model.visual_encoder
    try:
        visual.visual.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        name = type(visual.visual).__name__
        raise ValueError(f"--grad_checkpointing: an image tower of type {name} cannot do it") from None
    if visual.use_temp:
        visual.temporal_transformer.grad_checkpointing = True
    text: Any = model.text_encoder
    if isinstance(text, ChineseTextEncoder):
        bert: Any = text.chinese_encoder
        options = {"use_reentrant": False}
        if hasattr(bert, "activation_checkpointing_enable"):  # what transformers 5 calls it by now
            bert.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            bert.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    else:
        text.transformer.grad_checkpointing = True
