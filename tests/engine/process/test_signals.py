"""Signals to processes: none is lost, several at once are one, a later second one always ends the process."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import multiprocessing.util
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from common.stop_signals import SIGNALS
from dataloaders import loader
from engine.process import signals
from engine.process.errors import StoppedBySignal
from engine.process.signals import EXIT_AGAIN, StopRequest
from engine.program import end_process
from tests.processes import free_port, ranks_of

ROOT = Path(__file__).resolve().parents[3]
WINDOW_S = 0.3  # instead of seconds
LIMIT_S = 60


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ONE_REQUEST_S", WINDOW_S)
    monkeypatch.setattr(signals, "STUCK_S", WINDOW_S)


class Child:
    """A fork that calls `body(ready)` and ends with the code that it returns; `ready()` tells the parent."""

    def __init__(self, body: Callable[[Callable[[], None]], int]) -> None:
        self.reader, writer = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            with contextlib.suppress(BaseException):
                code = body(lambda: os.close(writer))
            os._exit(code)
        os.close(writer)

    def wait_until_ready(self) -> None:
        assert select.select([self.reader], [], [], LIMIT_S)[0], "the fork is not ready"

    def send(self, *numbers: int) -> None:
        for number in numbers:
            os.kill(self.pid, number)

    def code(self) -> int:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.send(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("the fork did not end")


def wait_in_a_library() -> None:
    """Wait in C, where Python's handlers never run: lock a mutex twice."""
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def until(condition: Callable[[], bool]) -> int:
    end = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return 0 if condition() else 1


def test_equal_signals_at_once_are_one() -> None:
    def body(ready: Callable[[], None]) -> int:
        with StopRequest() as stop:
            ready()
            code = until(lambda: stop.wanted)
            time.sleep(2 * WINDOW_S)  # saving
            return code

    child = Child(body)
    child.wait_until_ready()
    child.send(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert child.code() == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1])
def test_a_later_second_signal_ends_a_process_that_waits_in_a_library(
    first: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def body(ready: Callable[[], None]) -> int:
        with StopRequest():
            ready()
            wait_in_a_library()
        return 0

    child = Child(body)
    child.wait_until_ready()
    child.send(first)
    time.sleep(3 * WINDOW_S)
    child.send(signal.SIGTERM)
    assert child.code() == 128 + signal.SIGTERM
    assert capfd.readouterr().err == "ended at once by a second signal, SIGTERM\n"


@pytest.mark.parametrize(("saved", "code"), [(True, EXIT_AGAIN), (False, 128 + signal.SIGTERM)])
def test_the_first_signal_ends_a_block_that_waits_in_a_library(
    saved: bool, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def body(ready: Callable[[], None]) -> int:
        try:
            with StopRequest() as stop, stop.interruptible("while waiting", saved=saved, code=EXIT_AGAIN):
                ready()
                wait_in_a_library()
        except StoppedBySignal as stopped:  # the signal came before the wait
            os.write(2, f"{stopped}\n".encode())
            return stopped.exit_code
        return 0

    child = Child(body)
    child.wait_until_ready()
    time.sleep(WINDOW_S)
    child.send(signal.SIGTERM)
    assert child.code() == code
    assert capfd.readouterr().err == "stopped by SIGTERM while waiting\n"


def test_a_signal_that_was_blocked_at_the_start_is_not_lost() -> None:
    def body(ready: Callable[[], None]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.kill(os.getpid(), signal.SIGUSR1)
        with StopRequest() as stop:
            return until(lambda: stop.number == signal.SIGUSR1)

    assert Child(body).code() == 0


def test_a_closed_terminal_stops_the_run_unless_that_was_ignored_at_the_start() -> None:
    def body(ready: Callable[[], None]) -> int:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            return until(lambda: stop.number == signal.SIGHUP)

    def under_nohup(ready: Callable[[], None]) -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            return int(stop.wanted)

    assert Child(body).code() == 0
    assert Child(under_nohup).code() == 0


def test_signals_to_a_fork_are_not_signals_to_its_parent() -> None:
    with StopRequest() as stop, stop.interruptible("", saved=True):
        child = Child(lambda ready: ready() or until(lambda: False))  # type: ignore[func-returns-value]
        child.wait_until_ready()
        child.send(signal.SIGTERM, signal.SIGUSR1)
        time.sleep(2 * WINDOW_S)
        assert not stop.wanted
        child.send(signal.SIGKILL)
        assert child.code() == -signal.SIGKILL


def test_where_a_signal_ended_another_rank_first_the_signal_is_the_reason() -> None:
    lost = RuntimeError("Connection closed by peer [127.0.0.1]:2")
    stop = StopRequest()
    with pytest.raises(RuntimeError, match="closed by peer"), stop.interruptible("", saved=True):
        raise lost
    with pytest.raises(StoppedBySignal, match="SIGUSR1 while evaluating") as caught:  # noqa: SIM117
        with stop.interruptible("while evaluating", saved=True):
            stop.number = signal.SIGUSR1
            raise lost
    assert caught.value.exit_code == 0


def _barrier(rank: int, port: str, mark: str) -> None:
    signals.ONE_REQUEST_S = WINDOW_S
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with StopRequest():
        dist.init_process_group("gloo", rank=rank, world_size=2)
        Path(f"{mark}{rank}").touch()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.barrier()


def test_a_second_signal_ends_a_rank_while_another_rank_is_stopped(tmp_path: Path) -> None:
    marks = [tmp_path / f"joined{rank}" for rank in (0, 1)]
    with ranks_of(_barrier, 2, free_port(), str(tmp_path / "joined")) as (rank, _):
        assert until(lambda: all(mark.exists() for mark in marks)) == 0
        time.sleep(3 * WINDOW_S)
        assert rank.poll() is None
        rank.send_signal(signal.SIGTERM)
        time.sleep(3 * WINDOW_S)
        assert rank.poll() is None
        rank.send_signal(signal.SIGTERM)
        assert rank.wait(timeout=LIMIT_S) == 128 + signal.SIGTERM


# Sends a signal when the program is about to import numpy, which comes before torch.
EARLY = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), getattr(signal, sys.argv.pop()))

sys.meta_path.insert(0, Finder())
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("program", "job", "number", "code"),
    [
        ("main_task_retrieval.py", "--do_train", "SIGTERM", EXIT_AGAIN),
        ("main_pretrain.py", "--do_pretrain", "SIGUSR1", EXIT_AGAIN),
        ("main_task_retrieval.py", "--do_train", "SIGINT", 130),
        ("main_task_retrieval.py", "--do_eval", "SIGTERM", 128 + signal.SIGTERM),
    ],
)
def test_no_signal_is_lost_while_the_program_starts(
    program: str, job: str, number: str, code: int, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", EARLY, program, job, "--output_dir", str(tmp_path / "out"), number]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT_S)
    assert done.stderr == f"{program}: stopped by {number} before anything was trained\n"
    assert done.returncode == code
    assert not (tmp_path / "out").exists()


class Unkillable:
    """What multiprocessing knows of a process that waits for a broken disk."""

    daemon, name, _popen = True, "stuck", property(lambda self: self)

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        pass

    terminate = kill

    def join(self, timeout: float | None = None) -> None:
        time.sleep(LIMIT_S if timeout is None else timeout)


def test_the_program_ends_without_a_loader_process_that_cannot_be_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "END_WAIT_S", 0.2)

    def body(ready: Callable[[], None]) -> int:
        atexit._clear()  # of what this process registered, such as the end of the server of forks
        atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
        multiprocessing.process._children.add(Unkillable())  # type: ignore[attr-defined]
        loader.end_workers()
        end_process(3)

    start = time.monotonic()
    assert Child(body).code() == 3
    assert time.monotonic() - start < LIMIT_S / 2


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before
