"""SIGTERM, SIGUSR1, SIGHUP and Ctrl-C end a run in good order, wherever it is; a later second one at once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine.run
from common.stop_signals import SIGNALS
from engine.evaluation.encode import Evaluator
from engine.training.trainer import Trainer
from tests.e2e.conftest import Toy
from tests.e2e.test_resume import assert_same_run, records
from tests.processes import ROOT, fast_python

FLAGS = ("--dataset", "msrvtt", "--language", "english", "--epochs", "2", "--select_on", "test")


def before(owner: Any, name: str, act: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call act(n) before the n-th call of `owner.name`."""
    original, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        act(calls[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def signal_at(call: int, number: int) -> Callable[[int], None]:
    return lambda n: os.kill(os.getpid(), number) if n == call else None


@pytest.fixture(scope="module")
def whole(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert toy.run("train", out, *FLAGS) == 0
    return out


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)],
    ids=str,
)
def test_a_signal_saves_at_the_next_step(
    number: int,
    code: int,
    whole: Path,
    toy: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = [signal.getsignal(n) for n in SIGNALS]
    before(Trainer, "_optimiser_step", signal_at(5, number), monkeypatch)
    assert toy.run("train", tmp_path, *FLAGS) == code
    assert handlers == [signal.getsignal(n) for n in SIGNALS]
    said = capsys.readouterr().err.strip()
    state = tmp_path / "training_state.5.pt"
    name = signal.Signals(number).name
    assert f"stopped by {name} at epoch 1 step 5: saved {state}; resume with" in said and "\n" not in said
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5]
    assert toy.run("train", tmp_path, *FLAGS, "--resume", "auto") == 0
    assert_same_run(tmp_path, whole)


def test_while_evaluating_after_an_epoch(
    whole: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        before(Evaluator, "encode", signal_at(1, signal.SIGUSR1), patch)
        assert toy.run("train", tmp_path, *FLAGS) == 0
    assert "stopped by SIGUSR1 while evaluating" in capsys.readouterr().err
    assert toy.run("train", tmp_path, *FLAGS, "--resume", "auto") == 0
    assert_same_run(tmp_path, whole)


def test_before_training_and_while_only_evaluating(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of training nothing is lost; an evaluation that did not come about is no success."""
    before(engine.run, "build_model", signal_at(1, signal.SIGTERM), monkeypatch)
    assert toy.run("train", tmp_path / "a", *FLAGS) == 0
    assert "before anything was trained" in capsys.readouterr().err
    monkeypatch.undo()
    before(Evaluator, "encode", signal_at(1, signal.SIGTERM), monkeypatch)
    assert toy.run("eval", tmp_path / "b", *FLAGS) == 128 + signal.SIGTERM
    assert not (tmp_path / "b" / "metrics.jsonl").exists()


TWICE = """
import os, signal, sys, time
from engine.process import signals
from engine.program import end_process
from engine.training.trainer import Trainer
from main_task_retrieval import main

pause, step, calls = float(sys.argv[1]), Trainer._optimiser_step, []

def signalled_twice(*args, **kwargs):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * pause)
    return step(*args, **kwargs)

Trainer._optimiser_step = signalled_twice
signals.ONE_REQUEST_S = 0.25
sys.argv[0] = "main_task_retrieval.py"
end_process(main(sys.argv[2:]))
"""


def command(toy: Toy, output: Path, *program: str) -> list[str]:
    return [fast_python(), *program, "--do_train", "--output_dir", str(output), *toy.flags, *FLAGS]


@pytest.mark.parametrize("pause_s", [0.0, 0.5])
def test_a_second_signal_ends_at_once_unless_it_comes_with_the_first(
    pause_s: float, toy: Toy, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(toy, tmp_path, "-c", TWICE, str(pause_s)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (128 + signal.SIGTERM if pause_s else 0), done.stderr
    assert len(list(tmp_path.glob("training_state.*"))) == (0 if pause_s else 1)


def test_loader_processes_leave_signals_to_the_run(
    whole: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedulers signal every process of a job."""

    def to_all(call: int) -> None:
        if call == 4:
            loaders = children() - before_it
            assert len(loaders) >= 2
            for process in [*loaders, os.getpid()]:
                for _ in range(2):  # as Slurm does when it preempts a job
                    os.kill(process, signal.SIGTERM)

    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    if not listed.exists():
        pytest.skip("no list of child processes on this system")

    def children() -> set[int]:
        return set(map(int, listed.read_text(encoding="utf-8").split()))

    before_it = children()  # those of other tests
    with monkeypatch.context() as patch:
        before(Trainer, "_optimiser_step", to_all, patch)
        assert toy.run("train", tmp_path, *FLAGS, "--num_thread_reader", "2") == 0
    assert toy.run("train", tmp_path, *FLAGS, "--resume", "auto") == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal(ignored: bool, toy: Toy, tmp_path: Path) -> None:
    """The run saves as after SIGTERM. If SIGHUP was ignored at the start, as under nohup, the run goes on."""
    argv = command(toy, tmp_path, str(ROOT / "main_task_retrieval.py"))
    child, terminal = pty.fork()
    if child == 0:
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execv(argv[0], argv)
    printed = b""
    while b"step 2/" not in printed:
        printed += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, printed
    assert (tmp_path / "metrics.jsonl").exists() is ignored
    if not ignored:
        assert "stopped by SIGHUP" in (tmp_path / "stopped").read_text(encoding="utf-8")
        assert list(tmp_path.glob("training_state.*"))
