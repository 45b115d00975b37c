"""Dynamic loss scaling for fp16: small gradients do not vanish, and infinite ones lower the scale.

As `torch.amp.GradScaler` with its default values, and with its state. But nothing here waits for the device,
and the caller may say that the scale is not the cause of a bad step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

INITIAL, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """The scale, a float32 scalar on `device`. Without `enabled` all methods leave their tensors as they are.

    The scale halves when it makes a gradient infinite, and doubles after `INTERVAL` good steps in a row.
    """

    def __init__(self, device: torch.device, *, enabled: bool, initial: float = INITIAL) -> None:
        self.enabled = enabled
        self._scale = torch.full((), initial if enabled else 1.0, device=device)
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)  # in a row

    def get_scale(self) -> float:
        """The scale as a number. Waits for the device."""
        return float(self._scale)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss that is differentiated."""
        return loss * self._scale if self.enabled else loss

    def unscale_(self, gradients: Sequence[Tensor]) -> None:
        """Divide the gradients, which are not sharded, by the scale, in place."""
        if self.enabled and gradients:
            torch._foreach_mul_(list(gradients), self._scale.double().reciprocal().float())

    def may_overflow(self) -> Tensor:
        """Whether the scale can be why a gradient is infinite: bool scalar on the device."""
        return self._scale > 1.0

    def update(self, *, overflow: Tensor, bad: Tensor) -> None:
        """End a step. Both are bool scalars on the device.

        `overflow`: the scale made a gradient infinite. `bad`: something else is not finite; the scale stays.
        """
        if not self.enabled:
            return
        good_steps = torch.where(overflow, 0, self._good_steps + 1)
        grown = self._scale * GROWTH
        grows = (good_steps == INTERVAL) & torch.isfinite(grown)
        scale = torch.where(overflow, self._scale * BACKOFF, torch.where(grows, grown, self._scale))
        good_steps = torch.where(good_steps == INTERVAL, 0, good_steps)
        self._scale = torch.where(bad, self._scale, scale)
        self._good_steps = torch.where(bad, self._good_steps, good_steps).to(torch.int32)

    def state_dict(self) -> dict[str, Any]:
        """The entries of a `GradScaler`'s state; {} if not enabled. Waits for the device."""
        if not self.enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": GROWTH,
            "backoff_factor": BACKOFF,
            "growth_interval": INTERVAL,
            "_growth_tracker": int(self._good_steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if self.enabled:
            self._scale.fill_(state["scale"])
            self._good_steps.fill_(state["_growth_tracker"])
