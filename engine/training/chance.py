"""The loss of a model that has learned nothing, and a warning if a training stays there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.languages import BILINGUAL
from engine.config import Config
from modules.losses.table import make_loss

LOSS = "VTM"
NEAR = 0.98  # of the chance loss: above it nothing has been learned
FEWEST_STEPS = 10  # of an epoch, for a warning


def chance_loss(config: Config) -> float | None:
    """VTM of a model that cannot tell clips apart; None if it is not trained or has no negatives.

    In pre-training two directions, each a choice among one key and the queue, or among the clips of a batch
    (over all ranks); in fine-tuning --loss decides.
    """
    if config.do_pretrain and not config.weight_VTM:
        return None
    if not config.do_pretrain and config.head == "hmmc" and not config.weight_VTM_finetune:
        return None
    if config.do_pretrain and config.negatives == "queue":
        candidates = 1 + config.contrast_num_negative
    else:
        candidates = config.batch_size // config.gradient_accumulation_steps
    if config.language == BILINGUAL and not config.do_pretrain:
        candidates //= 2  # about half of the clips have texts of the same language
    if candidates <= 1:
        return None
    return 2.0 * math.log(candidates) if config.do_pretrain else make_loss(config.loss).chance(candidates)


class ChanceWatch:
    """Compares VTM with its chance value in the second half of each epoch. `chance` None: no comparison."""

    def __init__(self, chance: float | None) -> None:
        self.chance = chance
        self._sum: Tensor | float = 0.0
        self._steps = 0

    def add(self, losses: dict[str, Tensor], *, step: int, steps: int) -> None:
        """Remember the losses of step `step` of `steps`. Does not wait for the device."""
        value = losses.get(LOSS)
        if self.chance is not None and value is not None and 2 * step > steps >= FEWEST_STEPS:
            self._sum = self._sum + torch.nan_to_num(value.detach())
            self._steps += 1

    def end_epoch(self, epoch: int) -> str | None:
        """A warning if VTM was not below chance, else None. `epoch` counts from 0."""
        mean = float(self._sum) / max(1, self._steps)
        seen, self._sum, self._steps = self._steps, 0.0, 0
        if self.chance is None or not seen or mean < NEAR * self.chance:
            return None
        return (
            f"epoch {epoch + 1}: {LOSS} is {mean:.2f} in the second half of the epoch, and chance is "
            f"{self.chance:.2f}: the model does not match texts and videos yet. If the next epoch says so "
            "too, look at the learning rates, and whether captions and videos belong together "
            "(docs/WATCHING.md)"
        )
