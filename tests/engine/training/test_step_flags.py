"""Flags that are read a step late, as on a GPU: their order, what is read before a save, and other ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.logs.steps_jsonl import read_steps
from engine.process.errors import TrainingStopped
from engine.process.step_status import StepHooks, StepStatus
from engine.training.optimizer import BertAdam
from engine.training.step_flags import StepFlags, StepResult
from engine.training.trainer import Trainer
from tests.device import DEVICE
from tests.engine.training.test_trainer import Linear, Rows, with_bad_rows, with_replaced
from tests.processes import run_ranks

ALONE = World(0, 1, DEVICE)


def add(flags: StepFlags, step: int, *, bad: bool = False, stop: bool = False, loss: float = 1.0) -> bool:
    result = StepResult(f"step {step}", [], torch.tensor(loss), torch.tensor(0.0))
    return bool(flags.add(torch.tensor(bad), result, unreadable=step, stop_wanted=stop, save_failed=False))


def read(flags: StepFlags, *, all_steps: bool = False) -> list[tuple[str, StepStatus]]:
    return [(result.where, status) for status, result in flags.read(all_steps=all_steps)]


def test_a_step_may_be_read_at_once() -> None:
    flags = StepFlags(ALONE, late=False)
    for step, bad in ((1, False), (2, True)):
        assert add(flags, step, bad=bad, loss=float(step)) == bad
        assert not flags.all_read
        assert read(flags) == [(f"step {step}", StepStatus(not_finite=int(bad), unreadable=step))]
        assert flags.all_read and flags.loss == step
    assert read(flags) == []


def test_late_flags_come_in_order_and_one_step_late() -> None:
    flags = StepFlags(ALONE, late=True)
    add(flags, 1)
    assert read(flags) == [] and flags.loss is None
    add(flags, 2, bad=True, loss=5.0)
    assert read(flags) == [("step 1", StepStatus(unreadable=1))] and flags.loss == 1.0
    add(flags, 3)
    assert read(flags, all_steps=True) == [
        ("step 2", StepStatus(not_finite=1, unreadable=2)),
        ("step 3", StepStatus(unreadable=3)),
    ]
    assert flags.all_read


def test_after_a_signal_no_step_stays_unread() -> None:
    flags = StepFlags(ALONE, late=True)
    add(flags, 1, stop=True)
    assert read(flags) == []
    add(flags, 2)
    assert [where for where, _ in read(flags)] == ["step 1", "step 2"]


def test_on_gpus_flags_are_late_by_default() -> None:
    assert [StepFlags(World(0, 1, torch.device(kind, 0))).late for kind in ("cuda", "cpu")] == [True, False]


class Hooks(StepHooks):
    """Wants a stop from step `stop` on, and a save after the steps `due`. Keeps what it is told."""

    def __init__(self, *, stop: int = 99, due: tuple[int, ...] = ()) -> None:
        self.stop, self.due = stop, due
        self.steps = 0
        self.calls: list[tuple[int, int, StepStatus]] = []

    def stop_wanted(self) -> bool:
        self.steps += 1
        return self.steps >= self.stop

    def save_due(self, epoch: int, step: int) -> bool:
        return step in self.due

    def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
        self.calls.append((epoch, step, status))


def test_hooks_are_called_only_when_every_step_is_known(tmp_path: Path) -> None:
    """So that a state that is saved there holds the counts of its last step."""
    hooks = Hooks(due=(3,))
    trainer = with_replaced([0, 5], tmp_path, hooks=hooks, n_display=100, late=True)
    trainer.train_epoch(4)
    assert hooks.calls == [(4, 3, StepStatus(unreadable=2))]
    hooks = Hooks(stop=1)
    trainer = with_replaced([0, 5], tmp_path, hooks=hooks, n_display=100, late=True)
    trainer.train_epoch(0)
    assert hooks.calls[0] == (0, 2, StepStatus(unreadable=1, stop_wanted=2)), "one step later than on a CPU"


def test_a_save_due_sees_the_counts_of_its_own_step(tmp_path: Path) -> None:
    hooks = Hooks(due=(2,))
    trainer = with_bad_rows([2], tmp_path, hooks=hooks, n_display=100, late=True)
    skipped = []
    hooks.after_step = lambda *_: skipped.append(trainer.counters.skipped)  # type: ignore[method-assign]
    trainer.train_epoch(0)
    assert skipped == [1, 1], "after steps 2 and 5"


def test_the_progress_bar_shows_the_newest_known_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar(list[dict[str, Tensor]]):
        def set_postfix_str(self, text: str) -> None:
            shown.append(text.split(",")[0])

    shown: list[str] = []
    trainer = with_bad_rows([2], tmp_path, n_display=100, late=True)
    trainer.log.interactive = True
    monkeypatch.setattr(trainer.log, "progress", lambda batches, **_: Bar(batches))
    trainer.train_epoch(0)
    assert len(shown) == 4 and shown[:2] == ["loss 2.0000", "loss nan"], "of steps 1, 2, 3 and 5"


def test_late_messages_name_their_own_step_and_its_samples(tmp_path: Path) -> None:
    trainer = with_bad_rows([3, 6], tmp_path, n_display=100, late=True)
    trainer.train_epoch(0)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    for step, clips in ((2, "video2, video3"), (4, "video6, video7")):
        expected = f"skipped epoch 1 step {step}: not finite (rank 0: loss nan, gradient norm nan); "
        assert f"{expected}the batch held {clips}\n" in log
    assert trainer.counters.skipped == 2 and read_steps(tmp_path / "steps.jsonl")[-1]["skipped_steps"] == 2


def test_too_many_bad_steps_stop_one_step_later_and_name_the_right_one(tmp_path: Path) -> None:
    trainer = with_bad_rows([2, 4], tmp_path, max_bad_steps=2, n_display=100, late=True)
    with pytest.raises(TrainingStopped, match="^2 steps in a row .* step 3: .*held video4, video5; nothing"):
        trainer.train_epoch(0)
    assert trainer.optimizer.steps_done == 4


def test_late_and_prompt_reading_train_the_same(tmp_path: Path) -> None:
    """Also the log: every logged step, and every skipped one, is read before it is shown."""
    ends = []
    for late in (False, True):
        folder = tmp_path / str(late)
        folder.mkdir()
        trainer = with_bad_rows([5], folder, n_display=2, late=late, precision="bf16")
        trainer.train_epoch(0)
        shown = [
            {k: v for k, v in record.items() if k in ("step", "loss", "grad_norm", "skipped_steps")}
            for record in read_steps(folder / "steps.jsonl")
        ]
        ends.append((trainer.params[0].tolist(), trainer.counters, shown))
    assert repr(ends[0]) == repr(ends[1]) and len(ends[0][2]) == 3


def _train_on_two_ranks(rank: int, folder: str, late: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    world = World(rank, 2, torch.device("cpu"))
    model = Linear(2)
    optimizer = BertAdam(
        [{"params": list(model.parameters()), "name": "all"}], lr=0.1, total_steps=4, warmup=0.0
    )
    rows = torch.ones(8, 2)
    if rank == 1:
        rows[3] = float("inf")  # step 2 of rank 1: its gradient is infinite, that of rank 0 is not
    hooks = Hooks(due=(4,))
    trainer = Trainer(
        model,
        optimizer,
        DataLoader(Rows(rows), batch_size=2),
        world=world,
        log=RunLog(Path(folder), active=rank == 0),
        name_of=lambda index: f"rank {rank} video {index}",
        n_display=100,
        hooks=hooks,
    )
    trainer.flags.late = late
    trainer.train_epoch(0)
    total = StepStatus()
    for _, _, status in hooks.calls:
        total += status
    assert total == StepStatus(not_finite=1) and trainer.counters.skipped == 1
    assert len(hooks.calls) == (1 if late else 4) and torch.isfinite(model.w).all()
    torch.save(model.w.detach(), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("late", [False, True])
def test_two_ranks_skip_the_same_step(late: bool, tmp_path: Path) -> None:
    """One rank's loss is infinite: both leave their weights, and the message has the numbers of both."""
    run_ranks(_train_on_two_ranks, 2, str(tmp_path), late)
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one, other)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "skipped epoch 1 step 2: not finite (rank 0: loss 1." in log and "; rank 1: loss inf" in log
    assert "the batch held rank 0 video 2, rank 0 video 3, rank 1 video 2, rank 1 video 3\n" in log
