"""BertAdam, its schedule, and the learning rate of each parameter, as in the published code.

x = optimiser steps done / total steps; w = warm-up proportion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from engine.distributed.sharding import copy_full, full_copy, local_part

MOMENTS = ("exp_avg", "exp_avg_sq")
# AdamW's bias correction divides by 1 - beta^step: with so many steps by 1. In float32 one more is as many.
MANY_STEPS = 2.0**30
NO_DECAY = ("bias", "LayerNorm.bias", "LayerNorm.weight", "log_scale")


def warmup_cosine(x: float, *, warmup: float) -> float:
    """Factor on the learning rate at progress x: x / w while x < w, then 0.5 (1 + cos(pi x)).

    As in the published code, the rate drops a little at the end of the warm-up.
    """
    if x < warmup:
        return x / warmup
    return 0.5 * (1.0 + math.cos(math.pi * x))


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, with decoupled weight decay inside the step and its own schedule.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    theta <- theta - lr_t (m / (sqrt(v) + eps) + wd theta). The rate of the first step is 0.
    The `lr` of a group stays its peak rate; `current_lrs` returns the rates of the next step.

    `fused`: with one kernel, by default on GPUs only. On CPUs that kernel is faster as well, but it rounds
    the last few numbers of a tensor differently, and with them a sharded tensor.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        total_steps: int,
        warmup: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        assert total_steps >= 1, "a schedule needs at least one step"
        self.total_steps = total_steps
        self.warmup = warmup
        self.fused = fused
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        )

    @property
    def steps_done(self) -> int:
        """Position in the schedule. Skipped steps count: the rate is a function of the step alone."""
        return self.param_groups[0]["step"]

    def current_lrs(self) -> list[float]:
        """The learning rate of the next step for each group."""
        factor = warmup_cosine(self.steps_done / self.total_steps, warmup=self.warmup)
        return [group["lr"] * factor for group in self.param_groups]

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, skip: Tensor | None = None
    ) -> float | None:
        """One step. `skip`, a float32 scalar on the device: where it is 1, only the schedule goes on.

        With the fused kernel the device alone reads it, so the CPU does not wait.
        """
        assert closure is None, "BertAdam takes no closure"
        for group, lr in zip(self.param_groups, self.current_lrs(), strict=True):
            self._step_group(group, lr, skip)
            group["step"] += 1
        return None

    def _step_group(self, group: dict[str, Any], lr: float, skip: Tensor | None) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        tensors = (
            params,
            [p.grad for p in params],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
        )
        parts = [[local_part(tensor) for tensor in kind] for kind in tensors]
        fused = self.fused if self.fused is not None else params[0].device.type == "cuda"
        if fused:
            _fused_update(parts, group, lr=lr, skip=skip)
        elif skip is None or not bool(skip):
            _update(parts, group, lr=lr)


def _fused_update(
    tensors: list[list[Tensor]], group: dict[str, Any], *, lr: float, skip: Tensor | None
) -> None:
    params, grads, means, squares = tensors
    # AdamW multiplies theta by 1 - lr wd before the step, which is the same update.
    many_steps = torch.full((), MANY_STEPS, device=params[0].device)
    b1, b2 = group["betas"]
    adamw(
        params,
        grads,
        means,
        squares,
        [],
        [many_steps] * len(params),
        fused=True,
        found_inf=skip,
        amsgrad=False,
        beta1=b1,
        beta2=b2,
        lr=lr,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _update(tensors: list[list[Tensor]], group: dict[str, Any], *, lr: float) -> None:
    params, grads, means, squares = tensors
    b1, b2 = group["betas"]
    torch._foreach_mul_(means, b1)
    torch._foreach_add_(means, grads, alpha=1 - b1)
    torch._foreach_mul_(squares, b2)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - b2)
    update = torch._foreach_sqrt(squares)
    torch._foreach_add_(update, group["eps"])
    torch._foreach_reciprocal_(update)
    torch._foreach_mul_(update, means)
    if group["weight_decay"] > 0:
        torch._foreach_add_(update, params, alpha=group["weight_decay"])
    torch._foreach_add_(params, update, alpha=-lr)


def parameter_part(name: str) -> str:
    """The part whose learning rate a parameter has: 'image tower', 'text encoder', 'rest', 'adapters'."""
    if ".lora_" in name:
        return "adapters"
    if "visual_encoder.visual." in name:
        return "image tower"
    if "text_encoder." in name:
        return "text encoder"
    return "rest"


def parameter_groups(
    model: nn.Module, *, lr: float, text_lr: float, coef_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: the parts, each with and without weight decay.

    Every group has `name`, `lr` and `weight_decay`. There are no empty groups.
    """
    rates = {"image tower": lr * coef_lr, "text encoder": text_lr, "rest": lr, "adapters": lr}
    groups: dict[tuple[bool, str], list[nn.Parameter]] = {}
    for decays in (True, False):
        for part in rates:
            groups[decays, part] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = not any(word in name for word in NO_DECAY)
            groups[decays, parameter_part(name)].append(parameter)
    return [
        {
            "name": part if decays else f"{part}, no decay",
            "params": params,
            "lr": rates[part],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (decays, part), params in groups.items()
        if params
    ]


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    text_lr: float,
    coef_lr: float,
    weight_decay: float,
    warmup: float,
    total_steps: int,
) -> BertAdam:
    """BertAdam over `parameter_groups` of `model`."""
    groups = parameter_groups(model, lr=lr, text_lr=text_lr, coef_lr=coef_lr, weight_decay=weight_decay)
    return BertAdam(groups, lr=lr, total_steps=total_steps, warmup=warmup)


def optimizer_state(model: nn.Module, optimizer: BertAdam, *, keep: bool = True) -> dict[str, Any]:
    """The state by parameter name, with full tensors, so that any number of ranks can load it:
    {"exp_avg": {name: tensor}, "exp_avg_sq": {name: tensor}, "step": n}.

    The tensors are copies on the CPU; there are none if `keep` is False. Collective where parameters are
    sharded: tensors are gathered one by one, so that no device holds them all.
    """
    state: dict[str, Any] = {moment: {} for moment in MOMENTS}
    for name, parameter in model.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            full = full_copy(value, keep=keep)
            if full is not None:
                state[moment][name] = full
    return {**state, "step": optimizer.steps_done}


@torch.no_grad()
def load_optimizer_state(model: nn.Module, optimizer: BertAdam, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`; values are copied to each parameter's device."""
    for name, parameter in model.named_parameters():
        if name in state[MOMENTS[0]]:
            moments = {moment: torch.empty_like(parameter) for moment in MOMENTS}
            for moment, value in moments.items():
                copy_full(value, state[moment][name])
            optimizer.state[parameter] = moments
    for group in optimizer.param_groups:
        group["step"] = int(state["step"])
