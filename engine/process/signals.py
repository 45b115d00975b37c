"""Signals: SIGTERM, SIGUSR1, SIGINT and SIGHUP stop a run after a save; a later second one ends it at once.

The entry scripts enter a `StopRequest` before they import anything that takes long, so this file must not
either.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from common.stop_signals import signals_to_handle
from engine.process.errors import LOST_RANK, StoppedBySignal, explain

# Slurm sends SIGTERM twice within milliseconds, a closed terminal SIGHUP to the launcher and to its ranks.
ONE_REQUEST_S = 3.0
STUCK_S = 3.0  # then a main thread that a library holds does not end by itself
NOTHING_TRAINED = "before anything was trained"
EXIT_AGAIN = 75  # EX_TEMPFAIL: a signal came too early for a save; scripts/slurm/job.sh requeues the job


class StopRequest:
    """A context manager in which a signal sets `wanted` and does not end the process.

    The training loop reads `wanted` at every step. In an `interruptible()` block, where there is nothing to
    save, the signal raises `StoppedBySignal` at once. Signals within `ONE_REQUEST_S` of the first one belong
    to it; a later one ends the process. Leaving the context restores the earlier handlers.

    Python runs handlers between two instructions of its main thread, which may wait in a library, for
    instance for a rank that does not answer. So a thread watches for the second signal, and for a first one
    that does not end an interruptible block.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}
        self._interruption: tuple[str, bool, int] | None = None
        self._raised = False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StopRequest:
        # In Python only the main thread can handle signals.
        if threading.current_thread() is not threading.main_thread():
            return self
        self._process = os.getpid()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        handled = signals_to_handle()
        self._previous = {number: signal.signal(number, self._handle) for number in handled}
        # scripts/slurm/job.sh starts this process with these signals blocked, so that none is lost.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is None or os.getpid() != self._process:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        signal.set_wakeup_fd(self._previous_writer)
        os.write(self._writer, b"\0")
        self._thread.join()
        self._thread = None
        os.close(self._reader)
        os.close(self._writer)

    @property
    def wanted(self) -> bool:
        return self.number is not None

    @property
    def name(self) -> str:
        """The name of the signal received, for messages; without one, another rank received it."""
        return "a signal to another rank" if self.number is None else signal.Signals(self.number).name

    def stopped(self, what: str, *, saved: bool, code: int = 0) -> StoppedBySignal:
        """The exception that ends the run. Its exit code is `code` where everything is saved, 130 after
        Ctrl-C as usual, and 128 plus the number of the signal where work is lost."""
        by_ctrl_c = self.number == signal.SIGINT
        code = code if saved and not by_ctrl_c else 128 + (self.number or signal.SIGTERM)
        return StoppedBySignal(f"stopped by {self.name} {what}", exit_code=code)

    @contextlib.contextmanager
    def interruptible(self, what: str, *, saved: bool, code: int = 0) -> Iterator[None]:
        """A block that a signal ends at once with `stopped(what)`. An earlier signal ends it at its start.

        If the signal ended another rank first, the error about the lost rank becomes `stopped(what)` too.
        """
        outer, self._interruption = self._interruption, (what, saved, code)
        try:
            if self.wanted:
                self._interrupt()
            yield
        except Exception as error:
            if self.wanted and explain(error) == LOST_RANK:
                raise self.stopped(what, saved=saved, code=code) from error
            raise
        finally:
            self._interruption = outer

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader process that has no handlers of its own yet
            return
        if self.number is None:
            self.number = number
        if self._interruption is not None and not self._raised:
            self._interrupt()

    def _interrupt(self) -> None:
        assert self._interruption is not None
        what, saved, code = self._interruption
        self._raised = True
        raise self.stopped(what, saved=saved, code=code)

    def _watch(self) -> None:
        first: float | None = None
        while True:
            waits = first is not None and self._interruption is not None and not self._raised
            ready, _, _ = select.select([self._reader], [], [], STUCK_S if waits else None)
            if not ready:
                self._end_stuck()
                continue
            number = os.read(self._reader, 1)[0]
            if number == 0:
                return
            if number not in self._previous:
                continue
            if first is None:
                first = time.monotonic()
                self.number = self.number or number
            elif time.monotonic() - first > ONE_REQUEST_S:
                _end(128 + number, f"ended at once by a second signal, {signal.Signals(number).name}")

    def _end_stuck(self) -> None:
        """End the process if the first signal did not end the interruptible block."""
        interruption = self._interruption
        if interruption is not None and not self._raised:
            what, saved, _ = interruption
            stopped = self.stopped(what, saved=saved, code=EXIT_AGAIN)
            _end(stopped.exit_code, str(stopped))


def _end(code: int, message: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{message}\n".encode())
    os._exit(code)


def _forget_in_child() -> None:
    """Signals to a forked process are not signals to this one."""
    signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_child)
