"""A pool of processes that no task can bring down or hang.

Each worker holds one task at a time, so that a worker that dies (a crash in native code, a kill, no memory)
or takes too long (an endless loop) costs that task alone, and the pool knows which. Results travel as raw
buffers through a pipe, without being pickled or joined.
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
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
# What a task's function gives: anything small that pickles, and large buffers that travel as they are.
Output = tuple[Any, Sequence[bytes]]

_START_LIMIT = 120.0  # seconds that a worker may take to import what it needs
_LOOK_UP_EVERY = 0.5  # seconds after which `run` looks at its deadlines and at `stop`


@dataclass(frozen=True)
class Fault:
    """Why a task has no result: `reason` is "crashed", "timeout" or "error"."""

    reason: str
    message: str


def default_context() -> BaseContext:
    """How workers are started: never by forking this process, whose native threads would not survive it."""
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["av", "cv2", "numpy"])
    return context


class WorkerPool(Generic[Task]):
    """Runs `function(task)` in `workers` processes.

    `function` must be importable by name. A task that takes more than `timeout` seconds is given up with its
    worker; one whose worker dies is tried once more in a fresh worker before it is given up.
    """

    def __init__(
        self,
        function: Callable[[Task], Output],
        *,
        workers: int,
        timeout: float,
        context: BaseContext | None = None,
    ) -> None:
        self._function = function
        self._timeout = timeout
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

    def run(
        self, tasks: Iterable[Task], *, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Task, Output | Fault]]:
        """Each task with its result or fault, as they come. Once `stop()` is true no more come."""
        coming = (_Attempt(task) for task in tasks)
        again: deque[_Attempt[Task]] = deque()
        while not stop():
            self._feed(coming, again)
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

    def _feed(self, coming: Iterator[_Attempt[Task]], again: deque[_Attempt[Task]]) -> None:
        for worker in self._workers:
            if worker.attempt is None:
                attempt = again.popleft() if again else next(coming, None)
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
    """One process and the parent's end of its pipe. It says once that it is ready, then answers tasks."""

    def __init__(self, context: Any, function: Callable[[Any], Output], *, timeout: float) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the worker does
        self._timeout = timeout
        self._ready = False
        self.attempt: _Attempt[Any] | None = None
        self.deadline = time.monotonic() + _START_LIMIT

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def handles(self) -> list[Any]:
        return [self._connection, self._process.sentinel]

    def give(self, attempt: _Attempt[Any]) -> None:
        self.attempt = attempt
        if self._ready:
            self.deadline = time.monotonic() + self._timeout
        with contextlib.suppress(OSError):  # a dead worker's task comes back as crashed
            self._connection.send(attempt.task)

    def outcome(self) -> Output | Fault | None:
        """The result or fault of the task; None where there is none yet."""
        try:
            while self._connection.poll():
                answer = self._connection.recv()
                if isinstance(answer, _Ready):
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
        code = self._process.exitcode
        if code is not None and code < 0:
            return Fault("crashed", f"its process died of {signal.Signals(-code).name}")
        return Fault("crashed", f"its process ended with exit code {code}")

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


class _Ready:
    """What a worker says when it has imported everything."""


def _wait(busy: Sequence[_Worker]) -> list[_Worker]:
    """The busy workers that have something to say, are dead, or are over their time."""
    until = min(worker.deadline for worker in busy) - time.monotonic()
    handles = [handle for worker in busy for handle in worker.handles]
    ready = wait(handles, timeout=max(0.0, min(until, _LOOK_UP_EVERY)))
    now = time.monotonic()
    return [worker for worker in busy if now >= worker.deadline or any(h in ready for h in worker.handles)]


# In the worker


def _serve(connection: Connection, function: Callable[[Any], Output]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        connection.send(_Ready())
        while True:
            task = connection.recv()
            try:
                result, buffers = function(task)
            except Exception as error:  # the pool must survive any task, so that its fault becomes data
                connection.send(Fault("error", f"{type(error).__name__}: {error}"))
                continue
            connection.send((result, len(buffers)))
            for buffer in buffers:
                connection.send_bytes(buffer)
    except (EOFError, OSError):
        return  # the parent has gone


def _die_with_parent() -> None:
    """End the process when its parent does, even from within native code that never returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
