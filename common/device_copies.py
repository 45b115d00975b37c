"""Small tensors of the CPU on a device, without a wait."""

from __future__ import annotations

import torch
from torch import Tensor


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`. The CPU does not wait for the copy; what runs on the device later does."""
    if values.device.type == "cpu" and device.type == "cuda" and not values.is_pinned():
        values = values.pin_memory()  # from other memory the driver may wait for the device
    return values.to(device, non_blocking=True)
