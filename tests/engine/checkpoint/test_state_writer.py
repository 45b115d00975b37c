"""Writing states beside the training, keeping the newest, and reading only what is whole."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import engine.checkpoint.state_writer
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


def state(value: float = 0.0) -> dict[str, Any]:
    return {name: {"w": torch.full((3,), value)} for name in PARTS}


def steps(folder: Path) -> list[int]:
    return [step_of(path) for path in list_states(folder)]


def test_the_newest_stay_and_the_protected(tmp_path: Path) -> None:
    writer = StateWriter(tmp_path, keep=2)
    for step in (5, 10, 15, 100):
        writer.save(state(), step)
        writer.wait()
        writer.protected = {5}
    assert steps(tmp_path) == [100, 15, 5]
    assert writer.last_good == state_path(tmp_path, 100) and writer.problem is None


def test_states_of_another_run_go_at_the_first_save(tmp_path: Path) -> None:
    for step in (4, 8, 90):
        write_state(state(), state_path(tmp_path, step))
    writer = StateWriter(tmp_path, keep=3, own=[state_path(tmp_path, 4), state_path(tmp_path, 8)])
    assert writer.last_good == state_path(tmp_path, 8) and steps(tmp_path) == [90, 8, 4]
    writer.save(state(), 12)
    writer.wait()
    assert steps(tmp_path) == [12, 8, 4]


def test_what_is_written_is_the_moment_of_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training goes on while the thread writes; the next save waits for it."""
    begun, go_on = threading.Event(), threading.Event()
    original = write_state

    def slow(given: dict[str, Any], path: Path) -> None:
        begun.set()
        assert go_on.wait(10)
        original(given, path)

    monkeypatch.setattr(engine.checkpoint.state_writer, "write_state", slow)
    writer, given = StateWriter(tmp_path, keep=2), state(1.0)
    writer.save(given, 1)
    assert begun.wait(10) and not steps(tmp_path), "save came back before the file was there"
    given["model"]["w"].fill_(2.0)
    go_on.set()
    writer.save(given, 2)
    writer.wait()
    for step in (1, 2):
        read = read_state_file(state_path(tmp_path, step))
        assert read["model"]["w"].tolist() == [float(step)] * 3


def test_a_failed_write_is_told_and_spoils_nothing(tmp_path: Path) -> None:
    writer = StateWriter(tmp_path, keep=1)
    writer.save(state(), 1)
    writer.wait()
    state_path(tmp_path, 2).mkdir()  # a file cannot take its place
    writer.save(state(), 2)
    writer.wait()
    assert writer.problem is not None and "training_state.2.pt: cannot be written" in writer.problem
    assert writer.last_good == state_path(tmp_path, 1) and writer.last_good.is_file()
    assert not list(tmp_path.glob("*.tmp"))


def test_only_whole_states_are_read(tmp_path: Path) -> None:
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
    said = ("truncated", "damaged", "not a training state", "lacks optimizer")
    for problem, word, step in zip(problems, said, (5, 4, 3, 2), strict=True):
        assert word in problem and f"training_state.{step}.pt" in problem
    with pytest.raises(ValueError, match=r"training_state\.9\.pt: no such file"):
        read_state_file(state_path(tmp_path, 9))


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    names = ("training_state.3.pt.tmp", "pytorch_model.bin.0.tmp", "mine.tmp", "pytorch_model.bin.0")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.tmp", "pytorch_model.bin.0"}
    assert newest_state(tmp_path / "absent") == (None, [])
