"""When the training loop saves, what a state holds besides the model, and how a failed write ends the run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import FileError
from engine.checkpoint.random_state import random_state
from engine.checkpoint.state_writer import SavingHooks, StateWriter
from engine.checkpoint.states import PARTS, list_states, read_state_file, state_path, step_of
from engine.config_checks import parse_and_check
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.process.errors import StoppedBySignal, TrainingStopped
from engine.process.signals import StopRequest
from engine.process.step_status import StepStatus
from tests.device import DEVICE

ALONE = World(0, 1, DEVICE)
FINE = StepStatus(not_finite=0, unreadable=0, stop_wanted=0, save_failed=0)
WANTED = StepStatus(not_finite=0, unreadable=0, stop_wanted=1, save_failed=0)
FAILED = StepStatus(not_finite=0, unreadable=0, stop_wanted=0, save_failed=1)
STEPS = 5  # in an epoch


def hooks(folder: Path, *, save_steps: int, keep: int = 9) -> SavingHooks:
    argv = ["--do_train", "--output_dir", str(folder), "--dataset", "msrvtt", "--language", "english"]
    config, _ = parse_and_check([*argv, "--save_steps", str(save_steps)], program="main_task_retrieval.py")
    rest = ("random", "position", "config")
    return SavingHooks(
        config,
        world=ALONE,
        log=RunLog(folder, active=False),
        stop=StopRequest(),
        writer=StateWriter(folder, keep=keep),
        contents=lambda: {name: {} for name in PARTS if name not in rest} | {"model": {"w": torch.ones(2)}},
        steps_per_epoch=STEPS,
    )


def saved(hooks: SavingHooks) -> list[int]:
    hooks.close()
    return sorted(step_of(path) for path in list_states(Path(hooks.config.output_dir)))


@pytest.mark.parametrize(
    ("save_steps", "steps"), [(0, []), (2, [2, 4, 6, 8]), (3, [3, 6, 9]), (5, []), (4, [4, 8]), (7, [7])]
)
def test_every_nth_step_of_the_run_is_saved_but_the_end_of_an_epoch_is_not(
    save_steps: int, steps: list[int], tmp_path: Path
) -> None:
    """The run itself saves at the end of an epoch, with the results of it."""
    saving = hooks(tmp_path, save_steps=save_steps)
    for epoch in range(2):
        for step in range(1, STEPS + 1):
            saving.after_step(epoch, step, FINE)
    assert saved(saving) == steps


def test_a_state_says_where_the_run_is_and_how_it_was_started(tmp_path: Path) -> None:
    saving = hooks(tmp_path, save_steps=3)
    torch.manual_seed(5)
    saving.save(2, 4)
    assert saving.finish() == state_path(tmp_path, 14)
    state = read_state_file(state_path(tmp_path, 14))
    assert state["position"] == {"epoch": 2, "step": 4} and state["global_step"] == 14
    assert state["config"]["save_steps"] == 3 and state["world_size"] == 1
    torch.manual_seed(5)
    (generators,) = state["random"]
    assert torch.equal(generators["torch"], random_state(ALONE.device)["torch"])
    assert state["model"]["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [2, STEPS])
def test_a_signal_saves_and_ends_the_run(step: int, number: int, code: int, tmp_path: Path) -> None:
    saving = hooks(tmp_path, save_steps=0)
    assert not saving.stop_wanted()
    saving.stop.number = number
    assert saving.stop_wanted()
    with pytest.raises(StoppedBySignal) as stopped:
        saving.after_step(1, step, WANTED)
    path = state_path(tmp_path, STEPS + step)
    name = signal.Signals(number).name
    assert str(stopped.value) == (
        f"stopped by {name} at epoch 2 step {step}: saved {path}; resume with the same command and "
        "--resume auto"
    )
    assert stopped.value.exit_code == code and saved(saving) == [STEPS + step]


def test_a_failed_write_ends_the_run_and_names_the_last_good_state(tmp_path: Path) -> None:
    saving = hooks(tmp_path, save_steps=1)
    saving.after_step(0, 1, FINE)
    saving.finish()
    state_path(tmp_path, 2).mkdir()  # a file cannot take its place
    saving.after_step(0, 2, FINE)
    saving.close()
    assert saving.save_failed()
    expected = r"training_state\.2\.pt: cannot be written .*; the last good state is .*training_state\.1\.pt$"
    with pytest.raises(TrainingStopped, match=expected):
        saving.after_step(0, 3, FAILED)
    with pytest.raises(TrainingStopped, match=expected):
        saving.finish()


def test_the_last_save_in_words(tmp_path: Path) -> None:
    saving = hooks(tmp_path, save_steps=1)
    assert saving.last_save() == "no state was saved" and not saving.save_failed()
    saving.after_step(0, 1, FINE)
    assert saving.last_save() == f"the last good state is {state_path(tmp_path, 1)}"


def test_a_file_that_cannot_be_written_ends_the_run_and_other_errors_are_bugs(tmp_path: Path) -> None:
    saving = hooks(tmp_path, save_steps=1)
    written: list[int] = []
    saving.on_main(lambda: written.append(1))
    assert written == [1]

    def fail(error: Exception) -> Callable[[], None]:
        def write() -> None:
            raise error

        return write

    with pytest.raises(TrainingStopped, match="^best.json: full; no state was saved$"):
        saving.on_main(fail(FileError("best.json: full")))
    with pytest.raises(KeyError):
        saving.on_main(fail(KeyError("bug")))


def test_only_rank_0_has_a_writer(tmp_path: Path) -> None:
    saving = hooks(tmp_path, save_steps=1)
    options: dict[str, Any] = {"log": saving.log, "stop": saving.stop, "contents": dict, "steps_per_epoch": 1}
    for world, writer in ((ALONE, None), (World(1, 2, ALONE.device), saving.writer)):
        with pytest.raises(AssertionError):
            SavingHooks(saving.config, world=world, writer=writer, **options)
    other = SavingHooks(saving.config, world=World(1, 2, ALONE.device), writer=None, **options)
    assert not other.save_failed()
    other.close()


def test_at_most_the_newest_states_stay_and_the_protected_one_in_words(tmp_path: Path) -> None:
    saving = hooks(tmp_path, save_steps=1, keep=2)
    assert saving.writer is not None
    saving.writer.protected = {2}
    for step in range(1, STEPS):
        saving.after_step(0, step, FINE)
    assert saved(saving) == [2, 3, 4]
