"""Signals: SIGTERM, SIGUSR1 and SIGINT ask for an end in good order; a second one ends at once."""

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
    """While it is entered, a signal is remembered instead of ending the process.

    The training loop asks `wanted` at every step. Between `interruptible()` and its end, where nothing can be
    saved that is not saved yet, the signal raises `StoppedBySignal` at once. Leaving restores the handlers.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}
        self._interruption: str | None = None
        self._done = False

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread of a process handle signals.
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
        """The signal that came, or what stands for another rank's."""
        return "a signal to another rank" if self.number is None else signal.Signals(self.number).name

    def stopped(self, what: str, *, saved: bool) -> StoppedBySignal:
        """The exception that ends the run. Exit code 0 where all was saved, 130 after Ctrl-C as is usual, and
        128 plus the signal's number where the work is lost."""
        by_hand = self.number == signal.SIGINT
        code = 0 if saved and not by_hand else 128 + (self.number or signal.SIGTERM)
        return StoppedBySignal(f"stopped by {self.name} {what}", exit_code=code)

    @contextlib.contextmanager
    def interruptible(self, what: str, *, saved: bool) -> Iterator[None]:
        """A stretch that a signal ends at once with `stopped(what)`; one that came before ends it here."""
        self._interruption, self._saved = what, saved
        try:
            if self.wanted:
                raise self.stopped(what, saved=saved)
            yield
        finally:
            self._interruption = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._done or (self.wanted and self._interruption is None):
            os._exit(128 + number)
        self.number = number
        if self._interruption is not None:
            self._done = True
            raise self.stopped(self._interruption, saved=self._saved)
