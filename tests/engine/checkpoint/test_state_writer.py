"""Writing states during the training, keeping the newest, and reading only intact ones."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import engine.checkpoint.state_writer
from common.errors import FileError, UserError
from engine.checkpoint.resume import find_state
from engine.checkpoint.state_writer import StateWriter
from engine.checkpoint.states import (
    PARTS,
    list_states,
    newest_state,
    read_state_file,
    remove_leftovers,
    state_path,
    step_of,
    write_state,
)
from engine.config_checks import parse_and_check
from engine.distributed.sharding import full_state
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from tests.device import DEVICE

ALONE = World(0, 1, DEVICE)


def state(value: float = 0.0) -> dict[str, Any]:
    return {name: {"w": torch.full((3,), value)} for name in PARTS}


def steps(folder: Path) -> list[int]:
    return [step_of(path) for path in list_states(folder)]


def test_the_newest_and_the_protected_states_stay(tmp_path: Path) -> None:
    writer = StateWriter(tmp_path, keep=2)
    for step in (5, 10, 15, 100):
        writer.save(state(), step)
        writer.wait()
        writer.protected = {5}
    assert steps(tmp_path) == [100, 15, 5]
    assert writer.last_good == state_path(tmp_path, 100) and writer.problem is None


def test_the_first_save_deletes_states_of_another_run(tmp_path: Path) -> None:
    for step in (8, 10, 90):
        write_state(state(), state_path(tmp_path, step))
    writer = StateWriter(tmp_path, keep=3, earlier=[state_path(tmp_path, 8), state_path(tmp_path, 10)])
    assert writer.last_good == state_path(tmp_path, 10) and steps(tmp_path) == [90, 10, 8]
    writer.save(state(), 12)
    writer.wait()
    assert steps(tmp_path) == [12, 10, 8]


def test_an_old_state_that_cannot_be_deleted_is_named(tmp_path: Path) -> None:
    state_path(tmp_path, 1).mkdir()
    writer = StateWriter(tmp_path, keep=1)
    writer.save(state(), 2)
    writer.wait()
    assert writer.problem is not None
    assert writer.problem.startswith(f"{state_path(tmp_path, 1)}: cannot be deleted ")
    assert writer.last_good == state_path(tmp_path, 2) and writer.last_good.is_file()


def test_the_file_holds_the_state_at_the_moment_of_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training continues while the thread writes; the next save waits for it."""
    started, may_write = threading.Event(), threading.Event()

    def slow(content: dict[str, Any], path: Path) -> None:
        started.set()
        assert may_write.wait(10)
        write_state(content, path)

    monkeypatch.setattr(engine.checkpoint.state_writer, "write_state", slow)
    writer, model = StateWriter(tmp_path, keep=2), torch.nn.Linear(1, 3)
    for step in (1, 2):
        torch.nn.init.constant_(model.weight, float(step))
        writer.save({**state(), "model": full_state(model, keep=True, copy=True)}, step)
        assert started.wait(10)
        assert step == 2 or not steps(tmp_path), "save returns before the file exists"
        torch.nn.init.constant_(model.weight, -1.0)
        may_write.set()
    writer.wait()
    for step in (1, 2):
        read = read_state_file(state_path(tmp_path, step))
        assert read["model"]["weight"].flatten().tolist() == [float(step)] * 3


def test_a_failed_write_is_reported_and_leaves_earlier_states(tmp_path: Path) -> None:
    writer = StateWriter(tmp_path, keep=1)
    writer.save(state(), 1)
    writer.wait()
    state_path(tmp_path, 2).mkdir()  # a file cannot take its place
    writer.save(state(), 2)
    writer.wait()
    assert writer.problem is not None and "training_state.2.pt: cannot be written" in writer.problem
    assert writer.last_good == state_path(tmp_path, 1) and writer.last_good.is_file()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_bug_while_writing_is_raised_in_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: dict[str, Any], path: Path) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(engine.checkpoint.state_writer, "write_state", broken)
    writer = StateWriter(tmp_path, keep=1)
    writer.save(state(), 1)
    with pytest.raises(KeyError, match="planted"):
        writer.wait()
    writer.wait()
    assert writer.problem is None and writer.last_good is None


def test_only_intact_states_are_read(tmp_path: Path) -> None:
    for step in range(1, 6):
        write_state(state(7.0), state_path(tmp_path, step))
    state_path(tmp_path, 5).write_bytes(b"")
    content = bytearray(state_path(tmp_path, 4).read_bytes())
    content[content.index(torch.full((3,), 7.0).numpy().tobytes())] ^= 1  # one bit of a weight
    state_path(tmp_path, 4).write_bytes(content)
    torch.save({"state_dict": {}}, state_path(tmp_path, 3))
    write_state({"model": {}}, state_path(tmp_path, 2))
    path, problems = newest_state(tmp_path)
    assert path == state_path(tmp_path, 1)
    reasons = ("truncated", "damaged", "not a training state", "lacks optimizer")
    for problem, reason, step in zip(problems, reasons, (5, 4, 3, 2), strict=True):
        assert reason in problem and f"training_state.{step}.pt" in problem
    with pytest.raises(UserError, match=r"training_state\.9\.pt: no such file"):
        read_state_file(state_path(tmp_path, 9))


class RunsCode:
    """Unpickling this makes a folder: what stands for any code of whoever made the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("resume", ["auto", "folder", "file"])
def test_a_state_with_code_in_it_is_refused_and_runs_nothing(resume: str, tmp_path: Path) -> None:
    trap, folder = tmp_path / "trap", tmp_path / "run"
    folder.mkdir()
    path = state_path(folder, 3)
    write_state({**state(), "counters": RunsCode(trap)}, path)
    torch.load(path, weights_only=False)
    assert trap.is_dir(), "the file does what it is made for where somebody loads it without care"
    trap.rmdir()
    given = {"auto": "auto", "folder": str(folder), "file": str(path)}[resume]
    argv = ["--do_train", "--output_dir", str(folder), "--dataset", "msrvtt", "--language", "english"]
    config = parse_and_check([*argv, "--resume", given], program="main_task_retrieval.py")[0]
    log = RunLog(folder, active=True)
    if resume == "auto":  # a warning; the run starts from the beginning
        assert find_state(config, ALONE, log).path is None
    else:
        with pytest.raises(UserError, match=f"^--resume {given}: ") as error:
            find_state(config, ALONE, log)
        assert "\n" not in str(error.value)
    said = str(error.value) if resume == "file" else (folder / "log.txt").read_text(encoding="utf-8")
    assert f"training state {path}: refused: it holds code (posix.mkdir)" in said
    log.close()
    assert not trap.exists()


def test_only_temporary_files_of_a_killed_run_are_deleted(tmp_path: Path) -> None:
    names = ("training_state.3.pt.tmp", "pytorch_model.bin.0.tmp", "mine.tmp", "pytorch_model.bin.0")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.tmp", "pytorch_model.bin.0"}
    assert newest_state(tmp_path / "absent") == (None, [])


def test_a_leftover_that_cannot_be_deleted_is_named(tmp_path: Path) -> None:
    path = state_path(tmp_path, 3).with_name("training_state.3.pt.tmp")
    path.mkdir()
    with pytest.raises(FileError, match=f"^{path}: cannot be deleted "):
        remove_leftovers(tmp_path)


def test_states_of_other_versions_and_other_files_are_named(tmp_path: Path) -> None:
    path = state_path(tmp_path, 12)
    assert path == tmp_path / "training_state.12.pt" and step_of(path) == 12
    contents: dict[str, Any] = {
        "version 2, this code reads 1": {"form": "hmmc training state", "version": 2},
        "version None, this code reads 1": {"form": "hmmc training state"},
        "not a training state of this project": {"form": "other", "version": 1},
        "lacks model, optimizer, scaler, random, position, counters, results, data, config": {
            "form": "hmmc training state",
            "version": 1,
        },
    }
    for message, content in contents.items():
        torch.save(content, path)
        with pytest.raises(UserError, match=f"^training state {path}: {message}$"):
            read_state_file(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not a training state of this project"):
        read_state_file(path)


def test_a_state_is_read_as_it_was_written_and_stays_in_its_file(tmp_path: Path) -> None:
    content = {**state(3.0), "position": {"epoch": 1, "step": 2}, "results": [{"epoch": 0, "name": "a"}]}
    write_state(content, state_path(tmp_path, 1))
    read = read_state_file(state_path(tmp_path, 1))
    assert (read.pop("form"), read.pop("version")) == ("hmmc training state", 1)
    assert read.keys() == content.keys() and read["results"] == content["results"]
    assert read["model"]["w"].tolist() == [3.0] * 3 and read["model"]["w"].device.type == "cpu"


@pytest.mark.parametrize("error", [MemoryError, PermissionError])
def test_a_lack_of_memory_or_of_rights_is_no_damage(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error(13, "Permission denied")

    write_state(state(), state_path(tmp_path, 1))
    monkeypatch.setattr(torch, "load", fail)
    expected = MemoryError if error is MemoryError else FileError
    with pytest.raises(expected) as caught:
        read_state_file(state_path(tmp_path, 1))
    if error is PermissionError:
        path = state_path(tmp_path, 1)
        assert str(caught.value) == f"training state {path}: cannot be read (Permission denied)"


def test_states_are_listed_by_step_newest_first(tmp_path: Path) -> None:
    for name in ("training_state.9.pt", "training_state.10.pt", "training_state.2.pt", "training_state.x.pt"):
        (tmp_path / name).touch()
    (tmp_path / "training_state.11.pt.tmp").touch()
    assert steps(tmp_path) == [10, 9, 2] and steps(tmp_path / "absent") == []
    assert newest_state(tmp_path)[0] is None and len(newest_state(tmp_path)[1]) == 3
