"""A run that is killed at any step and resumed equals a run that was never stopped, bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import engine.training.selection
from engine.checkpoint.state_writer import SavingHooks
from engine.distributed.world import World
from engine.process.signals import StopRequest
from engine.process.step_status import StepStatus
from engine.training.step_flags import StepFlags
from tests.e2e.conftest import Toy

# Masked words, dropout, momentum, queues that wrap around; and the in-batch losses with accumulation.
PRETRAIN = ("pretrain", "--dataset", "chvtt", "--language", "chinese", "--use_temp", "--use_frame_fea")
TRAIN = (
    "train",
    "--dataset",
    "vatex",
    "--language",
    "chinese",
    "--batch_size",
    "4",
    "--gradient_accumulation_steps",
    "2",
    *("--learn_logit_scale", "--ema", "0.8", "--lora", "2"),
)
SAVING = ("--epochs", "2", "--save_steps", "2", "--num_thread_reader", "1", "--select_on", "test")
TIMES = ("clips_per_second", "clips_per_second_per_rank", "waiting", "memory_bytes", "seconds")


class Killed(BaseException):
    """Ends a run as a kill would: no handler of exceptions catches it."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """kill_at(epoch, step) ends the next run after that step, before anything is saved there."""
    original = SavingHooks.after_step

    def set_up(epoch: int, step: int) -> None:
        def after_step(self: SavingHooks, e: int, s: int, status: StepStatus) -> None:
            if (e, s) == (epoch, step):
                raise Killed
            original(self, e, s, status)

        monkeypatch.setattr(SavingHooks, "after_step", after_step)

    yield set_up
    monkeypatch.undo()


def records(out: Path) -> list[dict[str, Any]]:
    lines = (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [{n: v for n, v in json.loads(line).items() if n not in TIMES} for line in lines]


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{n: v for n, v in json.loads(line).items() if not n.startswith("checkpoint")} for line in lines]


def last_state(out: Path) -> dict[str, Any]:
    path = max(out.glob("training_state.*.pt"), key=lambda p: int(p.name.split(".")[1]))
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return {name: value for name, value in state.items() if name not in ("config", "results")}


def assert_equal(one: Any, other: Any, where: str = "state") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}.{place}")
    else:
        assert one == other, where


def assert_same_run(out: Path, whole: Path) -> None:
    assert records(out) == records(whole)
    assert metrics(out) == metrics(whole)
    assert_equal(last_state(out), last_state(whole))


@pytest.fixture(scope="module", params=[PRETRAIN, TRAIN], ids=["pretrain", "train"])
def whole(request: pytest.FixtureRequest, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(flags, the folder of a run that was never stopped, its steps an epoch)."""
    out = tmp_path_factory.mktemp("whole")
    job, *flags = (*request.param, *SAVING)
    assert toy.run(job, out, *flags) == 0
    return job, flags, out, records(out)[-1]["step"] // 2


@pytest.mark.parametrize("where", [(0, 1), (0, 3), (1, 2)])
def test_killed_and_resumed(
    where: tuple[int, int], whole: Any, toy: Toy, tmp_path: Path, kill_at: Any
) -> None:
    job, flags, never_stopped, steps = whole
    kill_at(where[0], min(where[1], steps))
    with pytest.raises(Killed):
        toy.run(job, tmp_path, *flags)
    kill_at(-1, -1)
    torch.rand(3)  # whatever the process did before
    assert toy.run(job, tmp_path, *flags, "--resume", "auto") == 0
    assert_same_run(tmp_path, never_stopped)


def test_flags_read_late_and_a_signal(
    whole: Any, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the flags of a step are read after the next one. The states are the same, bit for bit."""
    job, flags, never_stopped, _ = whole
    calls = 0

    def stop_wanted(self: SavingHooks) -> bool:
        nonlocal calls
        calls += 1
        self.stop.number = signal.SIGTERM if calls == 1 else None
        return self.stop.wanted

    def late(self: StepFlags, world: World) -> None:
        original(self, world, late=True)

    original = StepFlags.__init__
    monkeypatch.setattr(StepFlags, "__init__", late)
    flags = (*flags, "--n_display", "100", "--save_steps", "100")
    with monkeypatch.context() as patch:
        patch.setattr(SavingHooks, "stop_wanted", stop_wanted)
        patch.setattr(StopRequest, "stopped", lambda self, *_, **__: Killed())
        with pytest.raises(Killed):
            toy.run(job, tmp_path, *flags)
    assert calls == 2 and (tmp_path / "training_state.2.pt").is_file(), "one more step than on a CPU"
    assert toy.run(job, tmp_path, *flags, "--resume", "auto") == 0
    assert metrics(tmp_path) == metrics(never_stopped)
    assert_equal(last_state(tmp_path), last_state(never_stopped))


def test_killed_while_evaluating(
    whole: Any, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training of the epoch is saved. The epoch is evaluated again and recorded once."""
    job, flags, never_stopped, steps = whole
    original = engine.training.selection.evaluate

    def dies(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs) if after else None
        raise Killed

    for after in (False, True):  # before its line is written, and just after
        out = tmp_path / str(after)
        monkeypatch.setattr(engine.training.selection, "evaluate", dies)
        with pytest.raises(Killed):
            toy.run(job, out, *flags)
        monkeypatch.setattr(engine.training.selection, "evaluate", original)
        with open(out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write('{"epoch": 1, "t2v')
        assert toy.run(job, out, *flags, "--resume", "auto") == 0
        assert_same_run(out, never_stopped)
        log = (out / "log.txt").read_text(encoding="utf-8")
        assert f"resuming after epoch 1 step {steps}" in log


def test_a_broken_newest_state_falls_back(whole: Any, toy: Toy, tmp_path: Path, kill_at: Any) -> None:
    job, flags, never_stopped, steps = whole
    kill_at(1, 1)
    with pytest.raises(Killed):
        toy.run(job, tmp_path, *flags)
    kill_at(-1, -1)
    newest = tmp_path / f"training_state.{steps}.pt"
    content = newest.read_bytes()
    middle = len(content) // 2
    damaged = [content[:middle] + bytes(64) + content[middle + 64 :]]
    if job == "train":  # once is enough for the other ways
        damaged += [content[:-100], b"x"]
    for broken in damaged:
        out = tmp_path / "copy"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path, out, ignore=shutil.ignore_patterns("copy"))
        (out / newest.name).write_bytes(broken)
        assert toy.run(job, out, *flags, "--resume", "auto") == 0
        log = (out / "log.txt").read_text(encoding="utf-8")
        assert f"{newest.name}: " in log and "trying the one before" in log
        assert f"resuming from {out / f'training_state.{steps - (steps % 2 or 2)}.pt'}" in log
        assert_same_run(out, never_stopped)


def test_a_finished_run_has_nothing_to_do(whole: Any, toy: Toy, tmp_path: Path) -> None:
    job, flags, never_stopped, steps = whole
    shutil.copytree(never_stopped, tmp_path / "out")
    assert toy.run(job, tmp_path / "out", *flags, "--resume", "auto") == 0
    assert_same_run(tmp_path / "out", never_stopped)


def test_from_another_folder_and_as_initial_weights(whole: Any, toy: Toy, tmp_path: Path) -> None:
    job, flags, never_stopped, steps = whole
    state = never_stopped / f"training_state.{2 * steps}.pt"
    assert toy.run(job, tmp_path / "resumed", *flags, "--resume", str(state)) == 0
    assert_equal(
        torch.load(tmp_path / "resumed" / "pytorch_model.bin.1", weights_only=True),
        torch.load(never_stopped / "pytorch_model.bin.1", weights_only=True),
    )
    for folder, given in (("a", state), ("b", never_stopped / "pytorch_model.bin.1")):
        assert (
            toy.run("eval", tmp_path / folder, *flags, "--dataset", "vatex", "--init_model", str(given)) == 0
        )
    if "--ema" in flags:  # a state starts with the weights that are trained, a checkpoint is their average
        logs = [(tmp_path / folder / "log.txt").read_text(encoding="utf-8") for folder in ("a", "b")]
        assert f"{state}: the weights that were trained; their average (--ema 0.8) is in" in logs[0]
        assert "pytorch_model.bin.1: weights averaged over the steps" in logs[1]
    else:
        assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--lr", "1e-3", "--seed", "7"), ("--seed 7 (was 42)", "--lr 0.001 (was 0.0001)")),
        (("--epochs", "3"), ("--epochs 3 (was 2)",)),
        (("--train_annotations", "OTHER"), ("training texts or videos differ from those of",)),
        (("--resume", "nowhere"), ("--resume nowhere", "no such file")),
    ],
)
def test_refused_in_one_line(
    flags: tuple[str, ...],
    said: tuple[str, ...],
    whole: Any,
    toy: Toy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, given, never_stopped, _ = whole
    if "OTHER" in flags:
        if job == "pretrain":
            pytest.skip("once is enough")
        annotations = json.loads((toy.data / "vatex" / "vatex_data.json").read_text(encoding="utf-8"))
        for video in annotations.values():
            video["chCap"] = [f"{caption}!" for caption in video["chCap"]]
        other = tmp_path / "other.json"
        other.write_text(json.dumps(annotations), encoding="utf-8")
        flags = ("--train_annotations", str(other))
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    assert toy.run(job, out, *given, "--resume", "auto", *flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(part in line for part in said), line
    assert metrics(out) == metrics(never_stopped) and records(out) == records(never_stopped)


def test_without_a_state_the_run_starts_from_the_beginning_and_says_so(toy: Toy, tmp_path: Path) -> None:
    flags = ("--dataset", "msrvtt", "--language", "english", "--resume", "auto")
    (tmp_path / "training_state.5.pt.tmp").write_bytes(b"left by a kill")
    assert toy.run("train", tmp_path, *flags) == 0
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "no training state in" in log and "starts from the beginning" in log
    assert not list(tmp_path.glob("*.tmp"))
