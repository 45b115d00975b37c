"""A pool of processes that survives tasks that crash or hang.

Each worker has one task at a time. If a worker dies (a crash in native code, a kill, no memory) or takes too
long (an endless loop), only that task fails, and the pool knows which one. Large results travel through a
pipe as raw buffers, without pickling or copying.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

from common.stop_signals import SIGNALS

Task = TypeVar("Task")
# The result of a task: anything small that can be pickled, and large raw buffers.
Output = tuple[Any, Sequence[bytes]]

START_LIMIT = 120.0  # seconds that a worker may take to import what it needs
_CHECK_EVERY = 0.5  # seconds between two checks of the deadlines and of `stop`


@dataclass(frozen=True)
class Fault:
    """Why a task has no result: `reason` is "crashed", "timeout" or "error"."""

    reason: str
    message: str


def default_context() -> BaseContext:
    """How workers start: never by forking this process, because its native threads do not survive a fork."""
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["av", "cv2", "numpy"])
    return context


class WorkerPool(Generic[Task]):
    """Runs `function(task)` in `workers` processes; a context manager.

    `function` must be importable by name. If a task takes more than `timeout` seconds, its worker is
    killed; where `timeout` is a function, it gives these seconds for a task. If a worker dies, its task is
    tried once more in a new worker.
    """

    def __init__(
        self,
        function: Callable[[Task], Output],
        *,
        workers: int,
        timeout: float | Callable[[Task], float],
        context: BaseContext | None = None,
    ) -> None:
        self._function = function
        self._timeout = timeout if callable(timeout) else lambda _: timeout
        self._added: deque[_Attempt[Task]] = deque()
        self._context = context or default_context()
        self._workers: list[_Worker] = []
        self._size = workers

    def __enter__(self) -> WorkerPool[Task]:
        self._workers = [self._start() for _ in range(self._size)]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _start(self) -> _Worker:
        return _Worker(self._context, self._function, timeout=self._timeout)

    @property
    def process_ids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.pid for worker in self._workers]

    def add(self, task: Task) -> None:
        """A task that comes up during `run`, before those that are waiting."""
        self._added.append(_Attempt(task))

    def run(
        self, tasks: Iterable[Task], *, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Task, Output | Fault]]:
        """Each task with its result or fault, in the order in which they finish, until `stop()` is true."""
        new = (_Attempt(task) for task in tasks)
        again = self._added
        while not stop():
            self._feed(new, again)
            busy = [worker for worker in self._workers if worker.attempt is not None]
            if not busy:
                return
            for worker in _wait(busy):
                outcome = worker.outcome()
                if outcome is None:
                    continue
                attempt, worker.attempt = worker.attempt, None
                assert attempt is not None
                if isinstance(outcome, Fault) and outcome.reason != "error":
                    self._replace(worker)
                    if outcome.reason == "crashed" and attempt.first:
                        again.append(_Attempt(attempt.task, first=False))
                        continue
                yield attempt.task, outcome

    def _feed(self, new: Iterator[_Attempt[Task]], again: deque[_Attempt[Task]]) -> None:
        for worker in self._workers:
            if worker.attempt is None:
                attempt = again.popleft() if again else next(new, None)
                if attempt is None:
                    return
                worker.give(attempt)

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        self._workers[self._workers.index(worker)] = self._start()


@dataclass(frozen=True)
class _Attempt(Generic[Task]):
    task: Task
    first: bool = True


class _Worker:
    """A process and the parent's end of its pipe. It sends `_Ready` once, then one result for every task."""

    def __init__(
        self, context: Any, function: Callable[[Any], Output], *, timeout: Callable[[Any], float]
    ) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, function), daemon=True)
        with signals_blocked():
            self._process.start()
        theirs.close()  # so that the pipe closes when the worker ends
        self._timeout_of = timeout
        self._timeout = 0.0  # of its task
        self._ready = False
        self.attempt: _Attempt[Any] | None = None
        self.deadline = time.monotonic() + START_LIMIT

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def handles(self) -> list[Any]:
        return [self._connection, self._process.sentinel]

    def give(self, attempt: _Attempt[Any]) -> None:
        self.attempt = attempt
        self._timeout = self._timeout_of(attempt.task)
        if self._ready:
            self.deadline = time.monotonic() + self._timeout
        with contextlib.suppress(OSError):  # the worker is dead: `outcome` reports the task as crashed
            self._connection.send(attempt.task)

    def outcome(self) -> Output | Fault | None:
        """The result or fault of the task; None if there is none yet."""
        try:
            while self._connection.poll():
                answer = self._connection.recv()
                if isinstance(answer, Ready):
                    self._ready = True
                    self.deadline = time.monotonic() + self._timeout
                    continue
                if isinstance(answer, Fault):
                    return answer
                result, count = answer
                return result, [self._connection.recv_bytes() for _ in range(count)]
        except (EOFError, OSError):
            return self._crashed()
        if not self._process.is_alive():
            return self._crashed()
        if time.monotonic() >= self.deadline:
            return Fault("timeout", f"took longer than {self._timeout:g} s")
        return None

    def _crashed(self) -> Fault:
        self._process.join(timeout=1)
        return describe_exit(self._process.exitcode)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def describe_exit(code: int | None) -> Fault:
    """The fault of a worker that ended with `code`, below 0 by a signal; None: it is not known."""
    if code is not None and code < 0:
        return Fault("crashed", f"its process died of {signal.Signals(-code).name}")
    return Fault("crashed", f"its process ended with exit code {code}")


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes that start here do not get the signals that ask a program to stop.

    Ctrl-C and schedulers send them to every process of a job. The parent decides, and kills its workers. The
    server that forks them must live as long as the parent.
    """
    resource_tracker.ensure_running()  # if it started below, it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Ready:
    """Sent by a worker when it has imported everything."""


def _wait(busy: Sequence[_Worker]) -> list[_Worker]:
    """The busy workers that have sent something, are dead, or are past their deadline."""
    until = min(worker.deadline for worker in busy) - time.monotonic()
    handles = [handle for worker in busy for handle in worker.handles]
    ready = wait(handles, timeout=max(0.0, min(until, _CHECK_EVERY)))
    now = time.monotonic()
    return [worker for worker in busy if now >= worker.deadline or any(h in ready for h in worker.handles)]


# In the worker


def _work(connection: Connection, function: Callable[[Any], Output]) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    serve(connection, function)


def serve(connection: Connection, function: Callable[[Any], Output]) -> None:
    """Answer each task from `connection` with its result or fault, until the other end closes."""
    try:
        connection.send(Ready())
        while True:
            task = connection.recv()
            try:
                result, buffers = function(task)
            except Exception as error:  # the pool must survive every task: its error becomes data
                connection.send(Fault("error", f"{type(error).__name__}: {error}"))
                continue
            connection.send((result, len(buffers)))
            for buffer in buffers:
                connection.send_bytes(buffer)
    except (EOFError, OSError):
        return  # the parent has ended


def _die_with_parent() -> None:
    """End the process when its parent ends, even if native code never returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
