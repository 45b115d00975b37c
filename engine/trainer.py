"""The training loop: batch -> named losses -> backward -> clip -> BertAdam -> log.

It knows a model only as `model(batch) -> {"loss": scalar, name: scalar, ...}`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn
from torch.utils.data import DataLoader

from engine.distributed import World
from engine.log import RunLog
from engine.optimizer import BertAdam

Batch = dict[str, torch.Tensor]
MAX_GRAD_NORM = 1.0  # METHOD 5
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why and names the samples."""


def to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Autocast for `--precision`; float32 weights stay as they are."""
    if precision not in AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


class Trainer:
    """Trains one epoch at a time. `steps_per_epoch` counts optimiser steps."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: BertAdam,
        loader: DataLoader,
        *,
        world: World,
        log: RunLog,
        precision: str = "fp32",
        accumulation: int = 1,
        n_display: int = 100,
        epochs: int = 1,
        name_of: Callable[[int], str] = str,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loader = loader
        self.world = world
        self.log = log
        self.precision = precision
        self.accumulation = accumulation
        self.n_display = n_display
        self.epochs = epochs
        self.name_of = name_of
        # Scaling is what keeps fp16 gradients from vanishing; bf16 has float32's range and needs none.
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")
        self.rates = optimizer.current_lrs()
        self.params = [p for p in model.parameters() if p.requires_grad]

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.loader), accumulation=self.accumulation)

    def train_epoch(self, epoch: int) -> None:
        """One pass over the loader. Raises `TrainingStopped` on a loss or gradient that is not finite."""
        self.model.train()
        meter = _Meter()
        bar = self.log.progress(self.loader, total=len(self.loader), what=f"epoch {epoch + 1}/{self.epochs}")
        group: list[Batch] = []
        step = 0
        for position, batch in enumerate(bar):
            meter.data_ready()
            group.append(to_device(batch, self.world.device))
            if len(group) < self.accumulation and position + 1 < len(self.loader):
                continue
            losses = self._optimiser_step(group)
            meter.step_done(group, self.world.size)
            group = []
            step += 1
            if self.log.interactive:
                bar.set_postfix_str(
                    f"loss {float(losses['loss']):.4f}, lr {max(self.rates):.2e}, "
                    f"{meter.clips_per_second:.1f} clips/s"
                )
            if step % self.n_display == 0 or step == self.steps_per_epoch:
                self._report(losses, meter, epoch=epoch, step=step)
                meter.restart()
        self._report_replaced(meter)

    def _optimiser_step(self, group: list[Batch]) -> dict[str, torch.Tensor]:
        """Forward and backward over `group`, then one step. Returns the losses, averaged over the group."""
        totals: dict[str, torch.Tensor] = {}
        for position, batch in enumerate(group):
            last = position + 1 == len(group)
            with self._gradients_stay_here(not last):
                with autocast(self.precision, self.world.device):
                    losses = self.model(batch)
                self.scaler.scale(losses["loss"] / len(group)).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.detach().float() / len(group)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.params, MAX_GRAD_NORM)
        self._stop_unless_finite(totals["loss"], norm, group)
        self.rates = self.optimizer.current_lrs()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return {**totals, "grad_norm": norm.detach().float()}

    def _gradients_stay_here(self, accumulating: bool) -> contextlib.AbstractContextManager[None]:
        """Between accumulated passes DDP need not average the gradients yet."""
        no_sync = getattr(self.model, "no_sync", None)
        return no_sync() if accumulating and no_sync is not None else contextlib.nullcontext()

    def _stop_unless_finite(self, loss: torch.Tensor, norm: torch.Tensor, group: Iterable[Batch]) -> None:
        # With loss scaling an infinite gradient is expected now and then: the scaler skips that step.
        finite = torch.isfinite(loss) & (torch.isfinite(norm) | self.scaler.is_enabled())
        if self.world.all_agree(bool(finite)):
            return
        if finite:
            raise TrainingStopped("stopped: the loss on another rank is not finite")
        names = [self.name_of(int(i)) for batch in group for i in batch["index"]]
        raise TrainingStopped(
            f"loss {float(loss)}, gradient norm {float(norm)}: not finite at step "
            f"{self.optimizer.steps_done} on rank {self.world.rank}; the batch held {', '.join(names[:64])}"
        )

    def _report(self, losses: dict[str, torch.Tensor], meter: _Meter, *, epoch: int, step: int) -> None:
        values = self.world.mean(torch.stack([v.to(self.world.device) for v in losses.values()])).tolist()
        named = dict(zip(losses, values, strict=True))
        rates = {g["name"]: lr for g, lr in zip(self.optimizer.param_groups, self.rates, strict=True)}
        shown = " ".join(f"{name} {value:.4f}" for name, value in named.items())
        self.log.info(
            f"epoch {epoch + 1}/{self.epochs} step {step}/{self.steps_per_epoch} {shown} "
            f"lr {'/'.join(f'{lr:.2e}' for lr in dict.fromkeys(rates.values()))} "
            f"{meter.clips_per_second:.1f} clips/s, {meter.waiting:.0%} waiting for data"
        )
        scalars = {f"train/{name}": value for name, value in named.items()}
        scalars |= {f"lr/{name}": lr for name, lr in rates.items() if not name.endswith("no decay")}
        scalars["train/clips_per_second"] = meter.clips_per_second
        self.log.scalars(scalars, step=self.optimizer.steps_done)

    def _report_replaced(self, meter: _Meter) -> None:
        total = (
            self.world.mean(torch.tensor(float(meter.replaced), device=self.world.device)) * self.world.size
        )
        if total > 0:
            self.log.warning(
                f"{int(total)} unreadable clips were replaced by the next readable one in this epoch"
            )


def steps_per_epoch(batches: int, *, accumulation: int) -> int:
    """Optimiser steps in an epoch; the last group of accumulated batches may be short (METHOD 5)."""
    return -(-batches // accumulation)


class _Meter:
    """Speed over all ranks and the share of time spent waiting for data, since the last `restart`."""

    def __init__(self) -> None:
        self.replaced = 0
        self.restart()

    def restart(self) -> None:
        self.started = self.idle_since = time.perf_counter()
        self.waited = 0.0
        self.clips = 0

    def data_ready(self) -> None:
        self.waited += time.perf_counter() - self.idle_since

    def step_done(self, group: Iterable[Batch], ranks: int) -> None:
        for batch in group:
            self.clips += len(batch["index"]) * ranks
            self.replaced += int(batch["replaced"].sum()) if "replaced" in batch else 0
        self.idle_since = time.perf_counter()

    @property
    def clips_per_second(self) -> float:
        return self.clips / max(time.perf_counter() - self.started, 1e-9)

    @property
    def waiting(self) -> float:
        return self.waited / max(time.perf_counter() - self.started, 1e-9)
