"""Signals: SIGTERM, SIGUSR1 and SIGINT stop a run after a save; a second signal ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from engine.process.errors import StoppedBySignal

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """A context manager in which a signal sets `wanted` and does not end the process.

    The training loop reads `wanted` at every step. In an `interruptible()` block, where there is nothing to
    save, the signal raises `StoppedBySignal` at once. Leaving the context restores the earlier handlers.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}
        self._interruption: str | None = None
        self._raised = False

    def __enter__(self) -> StopRequest:
        # In Python only the main thread can handle signals.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @property
    def wanted(self) -> bool:
        return self.number is not None

    @property
    def name(self) -> str:
        """The name of the signal received, for messages; without one, another rank received it."""
        return "a signal to another rank" if self.number is None else signal.Signals(self.number).name

    def stopped(self, what: str, *, saved: bool) -> StoppedBySignal:
        """The exception that ends the run. Its exit code is 0 where everything is saved, 130 after Ctrl-C as
        usual, and 128 plus the number of the signal where work is lost."""
        by_ctrl_c = self.number == signal.SIGINT
        code = 0 if saved and not by_ctrl_c else 128 + (self.number or signal.SIGTERM)
        return StoppedBySignal(f"stopped by {self.name} {what}", exit_code=code)

    @contextlib.contextmanager
    def interruptible(self, what: str, *, saved: bool) -> Iterator[None]:
        """A block that a signal ends at once with `stopped(what)`. An earlier signal ends it at its start."""
        self._interruption, self._saved = what, saved
        try:
            if self.wanted:
                raise self.stopped(what, saved=saved)
            yield
        finally:
            self._interruption = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._raised or (self.wanted and self._interruption is None):
            os._exit(128 + number)
        self.number = number
        if self._interruption is not None:
            self._raised = True
            raise self.stopped(self._interruption, saved=self._saved)
