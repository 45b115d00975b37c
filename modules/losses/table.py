"""The table of the losses of fine-tuning (`--loss`): a new one is one file here and one line in `LOSSES`.

Reading the table does not import torch, so `--help` stays quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.losses.batch_loss import BatchLoss

# Name on the command line -> module of this package, and class.
LOSSES = {
    "softmax": ("softmax", "SoftmaxLoss"),
    "sigmoid": ("sigmoid", "SigmoidLoss"),
}
WEIGHT_NEGATIVES = ("softmax",)  # those that know --hard_negatives


def make_loss(name: str, *, hard_negatives: float = 0.0) -> BatchLoss:
    """The loss of that name; above 0 `hard_negatives` is only for those in `WEIGHT_NEGATIVES`."""
    module, kind = LOSSES[name]
    make: Callable[..., BatchLoss] = getattr(importlib.import_module(f"{__package__}.{module}"), kind)
    return make(**({"hard_negatives": hard_negatives} if name in WEIGHT_NEGATIVES else {}))
