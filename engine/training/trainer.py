"""The training loop: batch -> named losses -> backward -> clip gradients -> BertAdam -> log.

On a GPU the loop only starts the device's work; it waits for the device to log and to save (`step_flags.py`).

The model is any module with `model(batch) -> {"loss": scalar, name: scalar, ...}`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader

from engine.distributed.device import Batch, BatchCopier
from engine.distributed.precision import autocast, products
from engine.distributed.sharding import full_tensor, local_part
from engine.distributed.world import World
from engine.distributed.wrapping import average_gradients
from engine.logs.meter import Meter
from engine.logs.run_log import RunLog
from engine.process.errors import TrainingStopped
from engine.process.step_status import StepHooks, StepStatus
from engine.training.chance import ChanceWatch
from engine.training.grad_cache import cached_backward
from engine.training.loss_scale import LossScale
from engine.training.optimizer import BertAdam
from engine.training.step_flags import StepFlags, StepResult
from modules.dual_encoder import DualEncoder
from modules.numerics import at_least_float32

Losses = dict[str, torch.Tensor]
MAX_GRAD_NORM = 1.0  # as published
MAX_NAMED_SAMPLES = 64  # in the message about a batch that is not finite


@dataclass
class Counters:
    """Counts over the run and all ranks; they are saved with the training state."""

    skipped: int = 0  # steps that were not finite
    not_finite_in_a_row: int = 0  # steps
    unreadable: int = 0  # clips


class Trainer:
    """Trains one epoch at a time. Steps are optimiser steps; skipped steps count as well.

    `name_of`: the video of a sample, for messages. `requested`: the samples of this rank in batch b of epoch
    e. `log_scalars`: what the model adds to the log. `after_step` is called when the weights have changed.
    For the other arguments see the flags.
    """

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
        grad_cache: int = 0,
        n_display: int = 100,
        epochs: int = 1,
        name_of: Callable[[int], str] = str,
        requested: Callable[[int, int], Sequence[int]] | None = None,
        log_scalars: Callable[[], Mapping[str, float]] = dict,
        after_step: Callable[[], None] = lambda: None,
        max_bad_steps: int = 10,
        max_bad_samples: int = 1000,
        hooks: StepHooks | None = None,
        chance: float | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loader = loader
        self.world = world
        self.log = log
        self.precision = precision
        self.accumulation = accumulation
        self.grad_cache = grad_cache
        self.n_display = n_display
        self.epochs = epochs
        self.name_of = name_of
        self.requested = requested
        self.log_scalars = log_scalars
        self.after_step = after_step
        self.max_bad_steps = max_bad_steps
        self.max_bad_samples = max_bad_samples
        self.hooks = hooks or StepHooks()
        self.chance = ChanceWatch(chance)
        # Loss scaling keeps fp16 gradients from vanishing. bf16 has the range of float32 and needs none.
        self.scaler = LossScale(world.device, enabled=precision == "fp16")
        self.flags = StepFlags(world)
        self.copy = BatchCopier(world.device)
        self.rates = optimizer.current_lrs()
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.steps_per_epoch = steps_per_epoch(len(loader), accumulation=accumulation)
        self.counters = Counters()
        self.meter = Meter(ranks=world.size, device=world.device)
        self._status = StepStatus()  # of the steps since the hooks were called
        self._unreadable: deque[tuple[int, int, int]] = deque(maxlen=10)  # epoch, batch, place in the batch

    def train_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """One pass over the loader, which starts after the batches of the first `first_step` steps.

        Raises `TrainingStopped` after too many steps that are not finite or too many unreadable clips.
        """
        with products(self.precision):  # also those of the backward pass
            self._train_epoch(epoch, first_step)

    def _train_epoch(self, epoch: int, first_step: int) -> None:
        self.model.train()
        unreadable_before = self.counters.unreadable
        batches = len(self.loader)
        bar = self.log.progress(self.loader, total=batches, what=f"epoch {epoch + 1}/{self.epochs}")
        group: list[Batch] = []
        step = first_step
        self.meter.restart()
        for position, batch in enumerate(bar):
            self.meter.data_ready()
            batch = self.copy(batch)  # which may find frames that it cannot decode
            self._remember_unreadable(batch, epoch, first_step * self.accumulation + position)
            group.append(batch)
            if len(group) < self.accumulation and position + 1 < batches:
                continue
            step += 1
            losses = self._optimiser_step(group, f"epoch {epoch + 1} step {step}")
            self.chance.add(losses, step=step, steps=self.steps_per_epoch)
            self.meter.step_done(sum(len(batch["index"]) for batch in group))
            group = []
            self._end_step(losses, epoch, step)
            if self.log.interactive and self.flags.loss is not None:
                bar.set_postfix_str(
                    f"loss {self.flags.loss:.4f}, lr {max(self.rates):.2e}, "
                    f"{self.meter.clips_per_second:.1f} clips/s"
                )
        at_chance = self.chance.end_epoch(epoch)
        if at_chance:
            self.log.warning(at_chance)
        unreadable = self.counters.unreadable - unreadable_before
        if unreadable:
            self.log.warning(
                f"{unreadable} unreadable clips were replaced by the next readable one in this epoch"
            )

    def _optimiser_step(self, group: list[Batch], where: str) -> Losses:
        """Forward and backward for each batch of `group`, then one step if all numbers are finite.

        Returns the losses, averaged over the group. The CPU does not wait for a GPU: whether the step is
        skipped is decided on the device, and known here once `flags` are read.
        """
        totals = self._backward(group)
        self.scaler.unscale_([local_part(p.grad) for p in self.params if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.params, MAX_GRAD_NORM)
        norm = full_tensor(norm).detach().to(self.world.device)
        # With loss scaling an infinite gradient is expected at times: then the step is skipped and the scale
        # halved. At a scale of 1 or less the gradient itself is infinite.
        infinite = ~torch.isfinite(norm)
        not_finite = ~torch.isfinite(totals["loss"]) | (infinite & ~self.scaler.may_overflow())
        bad = self.flags.add(
            not_finite,
            StepResult(where, [batch["index"] for batch in group], totals["loss"], norm),
            unreadable=sum(int(batch["replaced"].sum()) for batch in group if "replaced" in batch),
            stop_wanted=self.hooks.stop_wanted(),
            save_failed=self.hooks.save_failed(),
        )
        self.rates = self.optimizer.current_lrs()
        self.optimizer.step(skip=(bad | infinite).float())
        self.after_step()
        self.scaler.update(overflow=infinite, bad=bad)
        self.optimizer.zero_grad(set_to_none=True)
        return {**totals, "grad_norm": norm}

    def _end_step(self, losses: Losses, epoch: int, step: int) -> None:
        """Read the flags that are known; report the step and call the hooks where they are due."""
        shown = step % self.n_display == 0 or step == self.steps_per_epoch
        for status, result in self.flags.read(all_steps=shown or self.hooks.save_due(epoch, step)):
            self._count(status, result)
            self._status += status
        if shown:
            self._report(losses, epoch=epoch, step=step)
            self.meter.restart()
        if self.flags.all_read:
            self._stop_if_too_many_unreadable()
            status, self._status = self._status, StepStatus()
            self.hooks.after_step(epoch, step, status)

    def _count(self, status: StepStatus, result: StepResult) -> None:
        """Count a step. Stop after too many in a row that were not finite."""
        self.counters.unreadable += status.unreadable
        if status.not_finite:
            self._skip(result)
        else:
            self.counters.not_finite_in_a_row = 0

    def _backward(self, group: list[Batch]) -> Losses:
        totals: Losses = {}
        for position, batch in enumerate(group):
            with self._no_gradient_sync(position + 1 < len(group)):
                losses = self._one_pass(batch, passes=len(group))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + at_least_float32(value.detach()) / len(group)
        if self.grad_cache:
            average_gradients(self.params, self.world)
        return totals

    def _one_pass(self, batch: Batch, *, passes: int) -> Losses:
        """Forward and backward of one batch; `passes` batches share a step."""

        def scale(loss: torch.Tensor) -> torch.Tensor:
            return self.scaler.scale(loss / passes)

        def cast() -> contextlib.AbstractContextManager[None]:
            return autocast(self.precision, self.world.device)

        if self.grad_cache:
            assert isinstance(self.model, DualEncoder)
            return cached_backward(self.model, batch, chunk=self.grad_cache, scale=scale, cast=cast)
        with cast():
            losses: Losses = self.model(batch)
        scale(losses["loss"]).backward()
        return losses

    def _no_gradient_sync(self, accumulating: bool) -> contextlib.AbstractContextManager[None]:
        """While passes are accumulated, DDP does not average gradients over ranks; the last pass does."""
        no_sync = getattr(self.model, "no_sync", None)
        return no_sync() if accumulating and no_sync is not None else contextlib.nullcontext()

    def _skip(self, step: StepResult) -> None:
        """Log the samples of a skipped step, of all ranks. Stop after too many such steps in a row."""
        self.counters.skipped += 1
        self.counters.not_finite_in_a_row += 1
        names_here = [self.name_of(int(i)) for samples in step.samples for i in samples]
        ranks = self.world.gather((step.numbers, names_here))
        by_rank = "; ".join(f"rank {rank}: {numbers}" for rank, (numbers, _) in enumerate(ranks))
        names = [name for _, names_there in ranks for name in names_there]
        shown = ", ".join(names[:MAX_NAMED_SAMPLES]) + (", ..." if len(names) > MAX_NAMED_SAMPLES else "")
        message = f"{step.where}: not finite ({by_rank}); the batch held {shown}"
        if self.counters.not_finite_in_a_row < self.max_bad_steps:
            self.log.warning(f"skipped {message}")
            return
        raise TrainingStopped(
            f"{self.counters.not_finite_in_a_row} steps in a row were not finite (--max_bad_steps), the last "
            f"at {message}; {self.hooks.last_save()}"
        )

    def _remember_unreadable(self, batch: Batch, epoch: int, number: int) -> None:
        """Remember the clips of this rank that could not be read and were replaced."""
        if "replaced" in batch:
            places = batch["replaced"].nonzero().flatten().tolist()
            self._unreadable.extend((epoch, number, place) for place in places)

    def _stop_if_too_many_unreadable(self) -> None:
        if self.counters.unreadable <= self.max_bad_samples:
            return
        names_here = []
        if self.requested is not None:
            names_here = [self.name_of(self.requested(e, n)[place]) for e, n, place in self._unreadable]
        names = [name for names in self.world.gather(names_here) for name in names]
        raise TrainingStopped(
            f"{self.counters.unreadable} clips could not be read (--max_bad_samples {self.max_bad_samples}), "
            f"the last ones of {', '.join(dict.fromkeys(names))}; {self.hooks.last_save()}"
        )

    def _report(self, losses: Losses, *, epoch: int, step: int) -> None:
        """Log one line and one record for steps.jsonl, with the means over the ranks. Collective."""
        means = self.world.mean(torch.stack([v.to(self.world.device) for v in losses.values()])).tolist()
        named = dict(zip(losses, means, strict=True))
        rates = {g["name"]: lr for g, lr in zip(self.optimizer.param_groups, self.rates, strict=True)}
        meter = self.meter
        shown = " ".join(f"{name} {value:.4f}" for name, value in named.items())
        self.log.info(
            f"epoch {epoch + 1}/{self.epochs} step {step}/{self.steps_per_epoch} {shown} "
            f"lr {'/'.join(f'{lr:.2e}' for lr in dict.fromkeys(rates.values()))} "
            f"{meter.clips_per_second:.1f} clips/s, {meter.waiting:.0%} waiting for data"
        )
        self.log.step_record(
            {
                "step": epoch * self.steps_per_epoch + step,
                "epoch": epoch,
                **named,
                **{f"lr/{name}": lr for name, lr in rates.items() if not name.endswith("no decay")},
                **self.log_scalars(),
                "skipped_steps": self.counters.skipped,
                "unreadable_clips": self.counters.unreadable,
                "clips_per_second": meter.clips_per_second,
                "clips_per_second_per_rank": meter.clips_per_second_per_rank,
                "waiting": meter.waiting,
                "memory_bytes": meter.memory_bytes,
            }
        )


def steps_per_epoch(batches: int, *, accumulation: int) -> int:
    """Optimiser steps in an epoch; the last group of accumulated batches may be short."""
    return -(-batches // accumulation)
