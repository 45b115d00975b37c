"""What the trainer says besides its step lines: a warning at chance, and the progress bar on a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from engine.logs.run_log import RunLog
from engine.process.errors import TrainingStopped
from engine.training.optimizer import BertAdam
from engine.training.trainer import Trainer
from tests.device import DEVICE
from tests.engine.training.test_trainer import WORLD, Linear, Rows, with_replaced


class AtChance(Linear):
    """A model whose VTM does not get better."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**super().forward(batch), "VTM": torch.tensor(3.0, device=DEVICE)}


class Terminal(RunLog):
    """A log on a terminal, whose progress bar is a list of what it shows."""

    def progress(self, batches: Any, *, total: int, what: str) -> Any:
        self.shown = [f"{what} of {total}"]
        bar: Any = _Bar(batches)
        bar.set_postfix_str = self.shown.append
        return bar


class _Bar(list):  # type: ignore[type-arg]
    pass


def trained_at_chance(tmp_path: Path, log: RunLog, *, chance: float | None) -> str:
    model = AtChance(2)
    optimizer = BertAdam(
        [{"params": list(model.parameters()), "name": "all"}], lr=0.1, total_steps=24, warmup=0.0
    )
    loader = DataLoader(Rows(torch.ones(12, 2)), batch_size=1)
    trainer = Trainer(model, optimizer, loader, world=WORLD, log=log, epochs=2, chance=chance)
    trainer.train_epoch(0)
    log.close()
    return (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_an_epoch_at_chance_is_a_warning(tmp_path: Path) -> None:
    said = trained_at_chance(tmp_path, RunLog(tmp_path, active=True), chance=3.0)
    assert "WARNING epoch 1: VTM is 3.00 in the second half of the epoch, and chance is 3.00" in said
    assert (
        "WARNING"
        not in trained_at_chance(tmp_path, RunLog(tmp_path, active=True), chance=None).split(said)[-1]
    )


def test_the_progress_bar_tells_epoch_loss_rate_and_speed(tmp_path: Path) -> None:
    log = Terminal(tmp_path, active=True)
    log.interactive = True
    trained_at_chance(tmp_path, log, chance=None)
    assert log.shown[0] == "epoch 1/2 of 12"
    assert re.fullmatch(r"loss -?\d\.\d{4}, lr \d\.\d\de-0\d, \d+\.\d clips/s", log.shown[1]), log.shown[1]
    assert len(log.shown) == 13


def test_the_last_ten_unreadable_clips_are_named(tmp_path: Path) -> None:
    trainer = with_replaced([0, 1, 2, 3, 4, 5], tmp_path, max_bad_samples=11)
    trainer.train_epoch(0)
    with pytest.raises(TrainingStopped) as stopped:
        trainer.train_epoch(1)
    numbers = (10, 11, 20, 21, 100, 101, 110, 111, 120, 121)  # without 0 and 1
    names = ", ".join(f"video{number}" for number in numbers)
    said = str(stopped.value)
    assert f"12 clips could not be read (--max_bad_samples 11), the last ones of {names};" in said
