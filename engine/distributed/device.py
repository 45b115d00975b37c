"""A rank's device: the precision of the forward pass, and copying batches to the device."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch

Batch = dict[str, torch.Tensor]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Autocast for `--precision`; the weights stay in float32."""
    if precision not in AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


def to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> Batch:
    """A copy of the batch on `device`. If its memory is pinned, the CPU does not wait for the copy."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
