"""The step: clipping after unscaling, accumulation, and what happens when numbers are not finite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.logs.steps_jsonl import read_steps
from engine.process.errors import TrainingStopped
from engine.process.step_status import StepHooks, StepStatus
from engine.training.loss_scale import LossScale
from engine.training.optimizer import BertAdam
from engine.training.step_flags import StepResult
from engine.training.trainer import Trainer, steps_per_epoch
from tests.device import DEVICE

WORLD = World(0, 1, DEVICE)


class Rows(Dataset[dict[str, Tensor]]):
    """Samples {"x": row, "index": i}."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.rows[index], "index": torch.tensor(index)}


class Linear(nn.Module):
    """loss = mean of w . x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(dim))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (batch["x"] @ self.w).mean()}


def train(rows: Tensor, tmp_path: Path, *, batch: int, scale: float = 0.0, accumulation: int = 1) -> Linear:
    """One epoch at a rate of 0.1 without warm-up; `scale` > 0 turns loss scaling on."""
    model = Linear(rows.shape[1])
    loader = DataLoader(Rows(rows), batch_size=batch)
    steps = steps_per_epoch(len(loader), accumulation=accumulation)
    optimizer = BertAdam(
        [{"params": list(model.parameters()), "name": "all"}], lr=0.1, total_steps=steps, warmup=0.0
    )
    log = RunLog(tmp_path, active=False)
    trainer = Trainer(model, optimizer, loader, world=WORLD, log=log, accumulation=accumulation)
    trainer.scaler = LossScale(DEVICE, enabled=scale > 0, initial=scale)
    trainer.train_epoch(0)
    return model


@pytest.mark.parametrize("norm", [0.5, 5.0])
def test_clipping_acts_on_unscaled_gradients(norm: float, tmp_path: Path) -> None:
    """FR-36: with a loss scale of 65536 the change is the same as without."""
    row = torch.tensor([[3.0, 4.0]]) / 5.0 * norm
    plain = train(row, tmp_path, batch=1)
    scaled = train(row, tmp_path, batch=1, scale=65536.0)
    torch.testing.assert_close(scaled.w, plain.w, rtol=1e-6, atol=1e-7)
    # It is the change that the clipped gradient gives: m = 0.1 g, v = 0.02 g^2.
    g = row[0] * min(1.0, 1.0 / norm)
    expected = 1.0 - 0.1 * 0.1 * g / ((0.02 * g**2).sqrt() + 1e-6)
    torch.testing.assert_close(plain.w, expected, rtol=1e-4, atol=1e-6)


def test_an_infinite_scaled_gradient_skips_the_update_and_the_schedule_goes_on(tmp_path: Path) -> None:
    row = torch.full((1, 2), 1e35)
    model = Linear(2)
    loader = DataLoader(Rows(row), batch_size=1)
    optimizer = BertAdam(
        [{"params": list(model.parameters()), "name": "all"}], lr=0.1, total_steps=4, warmup=0.0
    )
    trainer = Trainer(model, optimizer, loader, world=WORLD, log=RunLog(tmp_path, active=False))
    trainer.scaler = LossScale(DEVICE, enabled=True, initial=65536.0)
    trainer.train_epoch(0)
    torch.testing.assert_close(model.w.detach(), torch.ones(2))
    assert optimizer.steps_done == 1 and trainer.scaler.get_scale() == 32768.0
    assert trainer.counters.skipped == trainer.counters.not_finite_in_a_row == 0, "this is expected"


def test_accumulated_passes_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    whole = train(rows, tmp_path, batch=8)
    parts = train(rows, tmp_path, batch=2, accumulation=4)
    torch.testing.assert_close(parts.w, whole.w, rtol=1e-5, atol=1e-6)


def test_a_short_last_group_makes_a_step(tmp_path: Path) -> None:
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    assert steps_per_epoch(3, accumulation=2) == 2
    model = train(rows, tmp_path, batch=2, accumulation=2)
    assert not torch.equal(model.w, torch.ones(3))


def with_bad_rows(
    bad: list[int],
    tmp_path: Path,
    *,
    scale: float = 0.0,
    own_scaler: bool = False,
    late: bool = False,
    **settings: Any,
) -> Trainer:
    """A trainer on 10 rows in batches of two; the rows `bad` hold a NaN. `late`: as on a GPU."""
    rows = torch.ones(10, 2)
    rows[bad, 0] = float("nan")
    model = Linear(2)
    loader = DataLoader(Rows(rows), batch_size=2)
    optimizer = BertAdam(
        [{"params": list(model.parameters()), "name": "all"}], lr=0.1, total_steps=5, warmup=0.0
    )
    log = RunLog(tmp_path, active=True)
    trainer = Trainer(
        model, optimizer, loader, world=WORLD, log=log, name_of=lambda index: f"video{index}", **settings
    )
    if not own_scaler:
        trainer.scaler = LossScale(DEVICE, enabled=scale > 0, initial=scale)
    trainer.flags.late = late
    return trainer


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1024.0])
def test_a_step_that_is_not_finite_changes_nothing_but_the_schedule(
    scale: float, late: bool, tmp_path: Path
) -> None:
    trainer = with_bad_rows([3], tmp_path, scale=scale, late=late)
    trainer.train_epoch(0)
    assert trainer.optimizer.steps_done == 5 and trainer.counters.skipped == 1
    assert trainer.counters.not_finite_in_a_row == 0
    assert not scale or trainer.scaler.get_scale() == scale, "the loss scale is not the cause"
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "skipped epoch 1 step 2" in log and "the batch held video2, video3" in log
    without = with_bad_rows([], tmp_path, scale=scale)
    for rows, steps_done in ((2, 0), (6, 2)):
        for group in without.optimizer.param_groups:
            group["step"] = steps_done
        without.loader = DataLoader(Rows(torch.ones(rows, 2)), batch_size=2)
        without.train_epoch(0)
    assert torch.equal(trainer.params[0], without.params[0])


def test_too_many_of_them_in_a_row_stop_the_run_and_name_the_samples(tmp_path: Path) -> None:
    trainer = with_bad_rows([1, 4, 6], tmp_path, max_bad_steps=2)
    with pytest.raises(TrainingStopped, match="^2 steps in a row .* step 4: .*held video6, video7; nothing"):
        trainer.train_epoch(0)
    assert torch.isfinite(trainer.params[0]).all(), "the weights stay unchanged"
    assert trainer.counters.skipped == 3 and trainer.optimizer.steps_done == 4


@pytest.mark.parametrize(("accumulation", "shown"), [(1, [2, 4, 5, 7, 9, 10]), (2, [2, 3, 5, 6])])
def test_every_nth_step_and_the_last_of_an_epoch_are_logged(
    accumulation: int, shown: list[int], tmp_path: Path
) -> None:
    trainer = with_bad_rows([], tmp_path, n_display=2, accumulation=accumulation, epochs=2)
    for epoch in range(2):
        trainer.train_epoch(epoch)
    records = read_steps(tmp_path / "steps.jsonl")
    assert [record["step"] for record in records] == shown, "steps are counted over the whole run"
    per_epoch = len(shown) // 2
    assert [record["epoch"] for record in records] == [0] * per_epoch + [1] * per_epoch
    lines = [
        line for line in (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines() if " step " in line
    ]
    assert len(lines) == len(shown)
    steps = shown[per_epoch - 1]
    assert f"epoch 1/2 step {steps}/{steps} loss " in lines[per_epoch - 1]
    assert f"epoch 2/2 step {steps}/{steps} loss " in lines[-1]


def test_what_a_step_logs(tmp_path: Path) -> None:
    """Means over the passes, the norm before clipping, the rates of the step, and the model's scalars."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            loss = (batch["x"] @ self.w).mean()
            return {"loss": loss, "VTM": batch["x"].mean().half()}

    model, rows = Scaled(), torch.tensor([[3.0, 4.0], [3.0, 4.0], [9.0, 12.0], [9.0, 12.0]])
    groups = [
        {"params": [model.w], "name": "rest", "lr": 0.1},
        {"params": [nn.Parameter(torch.ones(1))], "name": "text encoder", "lr": 0.2},
        {"params": [nn.Parameter(torch.ones(1))], "name": "rest, no decay", "lr": 0.1},
    ]
    optimizer = BertAdam(groups, lr=0.1, total_steps=4, warmup=0.5)
    trainer = Trainer(
        model,
        optimizer,
        DataLoader(Rows(rows), batch_size=2),
        world=WORLD,
        log=RunLog(tmp_path, active=True),
        accumulation=2,
        epochs=4,
        log_scalars=lambda: {"queue_age": 3.0},
    )
    trainer.counters.skipped, trainer.counters.unreadable = 2, 5
    for epoch in range(2):
        trainer.train_epoch(epoch)
    first, second = read_steps(tmp_path / "steps.jsonl")
    assert first["loss"] == 0.0 and first["VTM"] == 7.0 and first["grad_norm"] == pytest.approx(10.0)
    assert (first["lr/rest"], first["lr/text encoder"]) == (0.0, 0.0), "the rates the step was made with"
    assert second["lr/rest"] == pytest.approx(0.05) and second["lr/text encoder"] == pytest.approx(0.1)
    assert "lr/rest, no decay" not in first and first["queue_age"] == 3.0
    assert (first["step"], first["epoch"], second["step"], second["epoch"]) == (1, 0, 2, 1)
    assert (first["skipped_steps"], first["unreadable_clips"]) == (2, 5)
    assert first["clips_per_second"] > 0 and first["clips_per_second_per_rank"] > 0
    assert 0 <= first["waiting"] <= 1 and first["memory_bytes"] > 1 << 20
    line = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert (
        "epoch 2/4 step 1/1 loss " in line and " VTM 7.0000 grad_norm 10.0000 lr 5.00e-02/1.00e-01 " in line
    )
    assert line.endswith("% waiting for data")


def with_replaced(replaced: list[int], tmp_path: Path, *, late: bool = False, **settings: Any) -> Trainer:
    """A trainer on 6 rows in batches of two; the clips `replaced` could not be read. `late`: as on a GPU."""

    class Replaced(Rows):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return super().__getitem__(index) | {"replaced": torch.tensor(int(index in replaced))}

    model = Linear(2)
    optimizer = BertAdam(
        [{"params": list(model.parameters()), "name": "all"}], lr=0.1, total_steps=5, warmup=0.0
    )
    trainer = Trainer(
        model,
        optimizer,
        DataLoader(Replaced(torch.ones(6, 2)), batch_size=2),
        world=WORLD,
        log=RunLog(tmp_path, active=True),
        name_of=lambda index: f"video{index}",
        requested=lambda epoch, number: [100 * epoch + 10 * number, 100 * epoch + 10 * number + 1],
        **settings,
    )
    trainer.flags.late = late
    return trainer


def test_unreadable_clips_are_counted_and_the_requested_ones_are_named(tmp_path: Path) -> None:
    trainer = with_replaced([1, 4], tmp_path, max_bad_samples=2)
    trainer.train_epoch(0)
    assert trainer.counters.unreadable == 2
    with pytest.raises(TrainingStopped) as stopped:
        trainer.train_epoch(1)
    assert str(stopped.value) == (
        "3 clips could not be read (--max_bad_samples 2), the last ones of video1, video20, video101; "
        "nothing was saved"
    )
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert log.count("2 unreadable clips were replaced by the next readable one in this epoch") == 1


def test_an_epoch_without_unreadable_clips_says_nothing_of_them(tmp_path: Path) -> None:
    trainer = with_replaced([], tmp_path)
    trainer.counters.unreadable = 7  # of earlier epochs
    trainer.train_epoch(0)
    assert trainer.counters.unreadable == 7
    assert "unreadable clips were" not in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_resumed_epoch_counts_on_and_names_the_batches_that_come(tmp_path: Path) -> None:
    """After 2 of 3 steps the loader yields the last batch; `requested` is asked for batch 2."""
    trainer = with_replaced([4], tmp_path, max_bad_samples=0)
    trainer.loader = DataLoader(Subset(trainer.loader.dataset, [4, 5]), batch_size=2)
    with pytest.raises(TrainingStopped, match="the last ones of video20;"):
        trainer.train_epoch(0, first_step=2)
    assert read_steps(tmp_path / "steps.jsonl")[-1]["step"] == 3


def test_hooks_get_the_status_of_every_step(tmp_path: Path) -> None:
    class Hooks(StepHooks):
        def __init__(self) -> None:
            self.calls: list[tuple[int, int, StepStatus]] = []

        def stop_wanted(self) -> bool:
            return len(self.calls) == 1

        def save_failed(self) -> bool:
            return len(self.calls) == 2

        def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
            self.calls.append((epoch, step, status))

    hooks = Hooks()
    with_replaced([0, 5], tmp_path, hooks=hooks).train_epoch(3)
    assert hooks.calls == [
        (3, 1, StepStatus(not_finite=0, unreadable=1, stop_wanted=0, save_failed=0)),
        (3, 2, StepStatus(not_finite=0, unreadable=0, stop_wanted=1, save_failed=0)),
        (3, 3, StepStatus(not_finite=0, unreadable=1, stop_wanted=0, save_failed=1)),
    ]


def test_only_the_last_pass_of_a_step_averages_gradients_over_ranks(tmp_path: Path) -> None:
    class Wrapped(Linear):
        def __init__(self) -> None:
            super().__init__(2)
            self.syncs: list[bool] = []
            self.sync = True

        @contextlib.contextmanager
        def no_sync(self) -> Iterator[None]:
            self.sync = False
            yield
            self.sync = True

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            self.syncs.append(self.sync)
            return super().forward(batch)

    trainer = with_bad_rows([], tmp_path, accumulation=2)
    trainer.model = model = Wrapped()
    trainer.params = list(model.parameters())
    trainer.train_epoch(0)
    assert model.syncs == [False, True, False, True, True]


def test_the_model_is_in_training_mode_and_in_the_precision_asked_for(tmp_path: Path) -> None:
    class Product(Linear):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            assert self.training
            product = batch["x"] @ self.w[:, None]
            dtypes.append(product.dtype)
            return {"loss": product.float().mean()}

    dtypes: list[torch.dtype] = []
    for precision in ("fp32", "bf16"):
        trainer = with_bad_rows([], tmp_path, precision=precision)
        trainer.model = Product(2).eval()
        trainer.train_epoch(0)
    assert dtypes == [torch.float32] * 5 + [torch.bfloat16] * 5
    for precision in ("fp32", "bf16", "fp16"):
        scaler = with_bad_rows([], tmp_path, precision=precision, own_scaler=True).scaler
        assert scaler.enabled == (precision == "fp16")


def test_many_names_of_a_batch_are_cut_short(tmp_path: Path) -> None:
    trainer = with_bad_rows([0], tmp_path)
    bad = "not finite (rank 0: loss nan, gradient norm nan)"
    for count, end in ((64, "video63"), (65, "video63, ...")):
        nan = torch.tensor(float("nan"))
        trainer._skip(StepResult("step 1", [torch.arange(count)], nan, nan))
        line = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()[-1]
        assert line.endswith(f"skipped step 1: {bad}; the batch held {names(count)}")
        assert line.endswith(end)
    assert trainer.counters.skipped == trainer.counters.not_finite_in_a_row == 2


def names(count: int) -> str:
    return ", ".join(f"video{i}" for i in range(min(count, 64))) + (", ..." if count > 64 else "")


@pytest.mark.parametrize(("batches", "steps"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_the_last_step_of_an_epoch_may_have_fewer_passes(batches: int, steps: int) -> None:
    assert steps_per_epoch(batches, accumulation=4) == steps
