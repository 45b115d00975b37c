"""--grad_checkpointing: recompute activations in the backward pass, which saves memory and costs time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from modules.backbones.layers import layers_of
from modules.dual_encoder import DualEncoder


class Checkpointed:
    """The forward method of a layer, of which only the inputs are kept where gradients are needed."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


def checkpoint_activations(model: DualEncoder) -> None:
    """Checkpoint the layers of image tower, temporal transformer and text encoder, in place.

    Momentum encoders run without gradient, so they keep nothing anyway. Raises `UserError` for an image tower
    without layers.
    """
    visual: Any = model.visual_encoder
    if not layers_of(visual.visual):
        name = type(visual.visual).__name__
        raise UserError(f"--grad_checkpointing: an image tower of type {name} does not support it")
    for layer in (*layers_of(model.visual_encoder), *layers_of(model.text_encoder)):
        layer.forward = Checkpointed(layer.forward)
