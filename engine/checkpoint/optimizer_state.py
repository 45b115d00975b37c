"""The optimiser's state by parameter name, so that any number of ranks can go on from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.distributed.sharding import copy_whole, whole
from engine.training.optimizer import BertAdam

MOMENTS = ("exp_avg", "exp_avg_sq")


def optimizer_state(model: nn.Module, optimizer: BertAdam) -> dict[str, Any]:
    """{"exp_avg": {name: tensor}, "exp_avg_sq": {name: tensor}, "step": n} of whole tensors.

    Collective where parameters are sharded; no copies are made where not.
    """
    state: dict[str, Any] = {moment: {} for moment in MOMENTS}
    for name, parameter in model.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            state[moment][name] = whole(value)
    return {**state, "step": optimizer.steps_done}


@torch.no_grad()
def load_optimizer_state(model: nn.Module, optimizer: BertAdam, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`; values are copied to each parameter's device."""
    for name, parameter in model.named_parameters():
        if name in state[MOMENTS[0]]:
            moments = {moment: torch.empty_like(parameter) for moment in MOMENTS}
            for moment, value in moments.items():
                copy_whole(value, state[moment][name])
            optimizer.state[parameter] = moments
    for group in optimizer.param_groups:
        group["step"] = int(state["step"])
