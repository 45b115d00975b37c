"""The log of a run: steps.jsonl, TensorBoard, Weights & Biases (a fake), written by rank 0 only."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.errors import FileError, UserError
from engine.logs.metrics_jsonl import drop_results_after
from engine.logs.run_log import RunLog
from engine.logs.steps_jsonl import read_steps
from engine.process.errors import StoppedBySignal

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

RECORD = {"step": 5, "epoch": 1, "loss": 0.5, "VTM": 0.25, "lr/text": 1e-3, "clips_per_second": 10.0}


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.axes: dict[str, str] = {}
        self.exit_code: int | None = None

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert name not in self.axes
        self.axes[name] = step_metric

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb(ModuleType):
    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[dict[str, Any]] = []
        self.runs: list[FakeRun] = []
        self.error: Exception | None = None

    def init(self, **arguments: Any) -> FakeRun:
        if self.error:
            raise self.error
        self.calls.append(arguments)
        self.runs.append(FakeRun())
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "实验一"
    folder.mkdir()
    yield folder


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_a_step_in_the_file_and_in_tensorboard(output: Path, tmp_path: Path) -> None:
    log = RunLog(output, active=True, logdir=str(tmp_path / "tb"))
    log.step_record(RECORD)
    log.close()
    (record,) = read_steps(output / "steps.jsonl")
    assert record.pop("seconds") >= 0
    assert record == RECORD
    shown = tensorboard_scalars(tmp_path / "tb" / output.name)
    assert shown["train/VTM"] == [(5, 0.25)] and shown["train/epoch"] == [(5, 1.0)]
    assert shown["lr/text"][0] == (5, pytest.approx(1e-3))
    assert "train/step" not in shown


def test_other_ranks_write_nothing(output: Path, tmp_path: Path, wandb: FakeWandb) -> None:
    log = RunLog(output, active=False, logdir=str(tmp_path / "tb"), wandb=True, config={})
    log.step_record(RECORD)
    log.truncate_steps(3)
    log.close()
    assert list(output.iterdir()) == [] and not (tmp_path / "tb").exists() and wandb.calls == []


def test_resume_cuts_the_file_and_tensorboard_and_keeps_counting_seconds(
    output: Path, tmp_path: Path
) -> None:
    log = RunLog(output, active=True, logdir=str(tmp_path / "tb"))
    log.truncate_steps(0)  # as where --resume auto finds no state
    for step in (2, 4, 6):
        log.step_record({"step": step, "loss": float(step)})
    log.close()
    lines = (output / "steps.jsonl").read_text(encoding="utf-8")
    (output / "steps.jsonl").write_text(
        "\n".join(f'{{"step": {r["step"]}, "seconds": 100}}' for r in read_steps(output / "steps.jsonl"))
        + "\n",
        encoding="utf-8",
    )
    assert lines.count("\n") == 3

    log = RunLog(output, active=True, logdir=str(tmp_path / "tb"), config={"resume": "auto"})
    log.truncate_steps(4)
    log.step_record({"step": 6, "loss": 66.0})
    log.close()
    records = read_steps(output / "steps.jsonl")
    assert [r["step"] for r in records] == [2, 4, 6]
    assert 100 <= records[-1]["seconds"] < 160
    assert tensorboard_scalars(tmp_path / "tb" / output.name)["train/loss"] == [(2, 2.0), (4, 4.0), (6, 66.0)]


def test_each_run_has_a_folder_of_its_own_in_tensorboard(tmp_path: Path) -> None:
    """A second run with the same --logdir draws its own curves, also with an equal name or output folder."""

    def run(output: Path, loss: float, *, resume: str | None = None, trains: bool = True) -> None:
        output.mkdir(parents=True, exist_ok=True)
        settings = {"resume": resume}
        log = RunLog(output, active=True, logdir=str(tmp_path / "tb"), config=settings, trains=trains)
        log.step_record({"step": 1, "loss": loss})
        log.close()

    run(tmp_path / "a" / "base", 1.0)
    run(tmp_path / "b" / "base", 2.0)
    run(tmp_path / "a" / "base", 3.0)  # trained again
    run(tmp_path / "b" / "base", 4.0, resume="auto")
    run(tmp_path / "b" / "base", 5.0, trains=False)
    RunLog(tmp_path / "a" / "base", active=True, logdir=str(tmp_path / "tb")).close()  # refused: logs nothing
    losses = {
        folder.name: [value for _, value in tensorboard_scalars(folder)["train/loss"]]
        for folder in (tmp_path / "tb").iterdir()
    }
    assert losses == {"base": [1.0], "base-2": [2.0, 4.0], "base-3": [3.0], "base-4": [5.0]}


def test_why_a_run_ended_is_in_its_log_and_not_twice_on_the_console(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(output, active=True)
    log.ended("--batch_size 1000: larger than the training set")
    log.close()
    assert " ERROR --batch_size 1000: larger" in (output / "log.txt").read_text(encoding="utf-8")
    assert capsys.readouterr().out == ""


def close_while(error: BaseException, log: RunLog) -> None:
    with contextlib.suppress(type(error)):
        try:
            raise error
        finally:
            log.close()


def test_a_stopped_run_leaves_a_mark_until_the_next_run(output: Path) -> None:
    mark = output / "stopped"
    close_while(StoppedBySignal("stopped by SIGUSR1", exit_code=0), RunLog(output, active=False))
    close_while(StoppedBySignal("stopped by SIGINT", exit_code=130), RunLog(output, active=True))
    close_while(RuntimeError("broken"), RunLog(output, active=True))
    RunLog(output, active=True).close()
    assert not mark.exists()
    close_while(StoppedBySignal("stopped by SIGUSR1", exit_code=0), RunLog(output, active=True))
    assert mark.read_text(encoding="utf-8") == "stopped by SIGUSR1\n"
    RunLog(output, active=False).close()
    RunLog(output, active=True, trains=False).close()  # an evaluation in this folder
    assert mark.exists()
    RunLog(output, active=True).close()
    assert not mark.exists()


def test_evaluations_are_logged_by_epoch(output: Path, tmp_path: Path, wandb: FakeWandb) -> None:
    log = RunLog(output, active=True, logdir=str(tmp_path / "tb"), wandb=True)
    log.step_record(RECORD)
    log.scalars({"t2v/R@1": 40.0}, step=1)
    log.step_record({**RECORD, "step": 6})
    log.close()
    (run,) = wandb.runs
    assert run.axes["t2v/R@1"] == "epoch" and run.axes["train/VTM"] == "step"
    assert run.logged[1] == {"t2v/R@1": 40.0, "epoch": 1}
    assert [values["step"] for values in (run.logged[0], run.logged[2])] == [5, 6]
    assert run.logged[0]["train/loss"] == 0.5 and run.logged[0]["lr/text"] == 1e-3
    assert tensorboard_scalars(tmp_path / "tb" / output.name)["t2v/R@1"] == [(1, 40.0)]


def test_wandb_gets_folder_name_and_settings(output: Path, wandb: FakeWandb) -> None:
    RunLog(output, active=True, wandb=True, config={"seed": 3, "resume": None}).close()
    (call,) = wandb.calls
    assert call["name"] == "实验一" and call["config"] == {"seed": 3, "resume": None}
    assert call["project"] == "hmmc" and call["dir"] == str(output)
    assert call["id"] == (output / "wandb_run_id").read_text(encoding="utf-8").strip()
    assert wandb.runs[0].exit_code == 0


def test_wandb_continues_its_run_only_with_resume(output: Path, wandb: FakeWandb) -> None:
    for resume in ("auto", "auto", None):
        RunLog(output, active=True, wandb=True, config={"resume": resume}).close()
    first, resumed, fresh = (call["id"] for call in wandb.calls)
    assert first == resumed != fresh
    RunLog(output, active=True, wandb=True, config={"resume": None}, trains=False).close()
    RunLog(output, active=True, wandb=True, config={"resume": "auto"}).close()
    evaluation, resumed = (call["id"] for call in wandb.calls[3:])
    assert resumed == fresh != evaluation


def test_wandb_project_comes_from_the_environment(
    output: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    RunLog(output, active=True, wandb=True).close()
    assert wandb.calls[0]["project"] == "ours"


def test_wandb_marks_a_run_that_ends_with_an_error(output: Path, wandb: FakeWandb) -> None:
    for error in (RuntimeError("broken"), StoppedBySignal("stopped by SIGTERM", exit_code=0)):
        close_while(error, RunLog(output, active=True, wandb=True))
    assert [run.exit_code for run in wandb.runs] == [1, 0]


def test_wandb_is_not_installed(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--wandb: .*pip install wandb"):
        RunLog(output, active=True, wandb=True)


def test_wandb_that_cannot_open_a_run_is_one_line(output: Path, wandb: FakeWandb) -> None:
    wandb.error = RuntimeError("no API key\nconfigured")
    with pytest.raises(UserError, match=r"--wandb: .*no API key configured.*WANDB_MODE=offline"):
        RunLog(output, active=True, wandb=True)


def test_without_the_flag_wandb_is_not_imported(output: Path, wandb: FakeWandb) -> None:
    log = RunLog(output, active=True, config={"wandb": False})
    log.step_record(RECORD)
    log.close()
    assert wandb.calls == [] and not (output / "wandb_run_id").exists()


def test_a_logdir_that_cannot_be_written(output: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="--logdir .*cannot be written"):
        RunLog(output, active=True, logdir=str(tmp_path / "file" / "tb"))


@pytest.mark.skipif(resource is None, reason="no limit on the size of files here")
@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "steps.jsonl"])
def test_a_full_disk_is_one_line_that_names_the_file(output: Path, name: str) -> None:
    """A limit on the size of files fails as a full disk does."""
    size = 4 << 20
    (output / name).write_bytes(b"\n" * size)
    log = RunLog(output, active=True)
    write = {
        "log.txt": lambda: log.info("a line"),
        "metrics.jsonl": lambda: log.result({"epoch": 1}),
        "steps.jsonl": lambda: log.step_record(RECORD),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(FileError, match=f"{name}: cannot be written") as error:
            write[name]()
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)


def test_a_log_file_that_cannot_be_opened(output: Path) -> None:
    (output / "log.txt").mkdir()
    with pytest.raises(FileError, match=r"log\.txt: cannot be written"):
        RunLog(output, active=True)


def test_a_folder_whose_name_is_not_utf_8_is_logged(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode("基线".encode("gbk"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    log = RunLog(folder, active=True)
    log.info(f"report: {folder}")
    log.result({"checkpoint": str(folder)})
    log.close()
    assert r"\udcbb\udcf9" in (folder / "log.txt").read_text(encoding="utf-8")
    line = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(line) == {"checkpoint": str(folder)}


def test_lines_of_metrics_jsonl_are_forced_to_disk(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure must not take a result. What is on disk is what the file held at its last fsync."""
    on_disk: dict[int, str] = {}
    path = output / "metrics.jsonl"

    def record(handle: int) -> None:
        is_file = os.path.samestat(os.fstat(handle), os.stat(path)) if path.exists() else False
        temporary = path.with_name(path.name + ".tmp")
        source = path if is_file else temporary if temporary.exists() else None
        on_disk[os.fstat(handle).st_ino] = source.read_text(encoding="utf-8") if source else ""

    monkeypatch.setattr(os, "fsync", record)
    log = RunLog(output, active=True)
    for epoch in (0, 1):
        log.result({"epoch": epoch})
        assert on_disk[path.stat().st_ino] == path.read_text(encoding="utf-8")
    log.close()
    on_disk.clear()
    drop_results_after(path, 0, ended=False)
    assert path.read_text(encoding="utf-8") == '{"epoch": 0}\n' == on_disk[path.stat().st_ino]
    assert output.stat().st_ino in on_disk, "the rename too"
