"""The step: clipping after unscaling, accumulation, and what happens when numbers are not finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.logs.steps_jsonl import read_steps
from engine.process.errors import TrainingStopped
from engine.training.optimizer import BertAdam
from engine.training.trainer import Trainer, steps_per_epoch

WORLD = World(0, 1, torch.device("cpu"))


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
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=scale > 0, init_scale=scale or 1.0)
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


def test_an_infinite_scaled_gradient_skips_the_step_and_the_schedule(tmp_path: Path) -> None:
    row = torch.full((1, 2), 1e35)
    model = Linear(2)
    loader = DataLoader(Rows(row), batch_size=1)
    optimizer = BertAdam(
        [{"params": list(model.parameters()), "name": "all"}], lr=0.1, total_steps=4, warmup=0.0
    )
    trainer = Trainer(model, optimizer, loader, world=WORLD, log=RunLog(tmp_path, active=False))
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=65536.0)
    trainer.train_epoch(0)
    torch.testing.assert_close(model.w.detach(), torch.ones(2))
    assert optimizer.steps_done == 0 and trainer.scaler.get_scale() == 32768.0


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


def with_bad_rows(bad: list[int], tmp_path: Path, *, scale: float = 0.0, **settings: int) -> Trainer:
    """A trainer on 10 rows in batches of two; the rows `bad` hold a NaN."""
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
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=scale > 0, init_scale=scale or 1.0)
    return trainer


@pytest.mark.parametrize("scale", [0.0, 1024.0])
def test_a_step_that_is_not_finite_changes_nothing(scale: float, tmp_path: Path) -> None:
    trainer = with_bad_rows([3], tmp_path, scale=scale)
    trainer.train_epoch(0)
    assert trainer.optimizer.steps_done == 4 and trainer.counters.skipped == 1
    assert trainer.counters.not_finite_in_a_row == 0
    assert not scale or trainer.scaler.get_scale() == scale, "the loss scale is not the cause"
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "skipped epoch 1 step 2" in log and "the batch held video2, video3" in log
    without = with_bad_rows([], tmp_path, scale=scale)
    without.loader = DataLoader(Rows(torch.ones(8, 2)), batch_size=2)
    without.train_epoch(0)
    assert torch.equal(trainer.params[0], without.params[0])


def test_too_many_of_them_in_a_row_stop_the_run_and_name_the_samples(tmp_path: Path) -> None:
    trainer = with_bad_rows([1, 4, 6], tmp_path, max_bad_steps=2)
    with pytest.raises(TrainingStopped, match="^2 steps in a row .* step 4: .*held video6, video7; nothing"):
        trainer.train_epoch(0)
    assert torch.isfinite(trainer.params[0]).all(), "the weights stay unchanged"
    assert trainer.counters.skipped == 3 and trainer.optimizer.steps_done == 1


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
