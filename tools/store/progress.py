"""The progress of a build: counts, failures.jsonl, the progress bar, and signals to stop."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from common.atomic_files import ESCAPED
from common.errors import file_errors
from common.stop_signals import signals_to_handle
from engine.process.signals import ONE_REQUEST_S
from video.sampling import VideoError


@dataclass
class BuildResult:
    """The result of a build: videos stored now and before, failures by reason, the signal that stopped it."""

    listed: int
    stored_before: int
    stored: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    stopped_by: int = 0

    @property
    def exit_code(self) -> int:
        """0 all stored, 1 some failed, 128 + signal if a signal stopped it."""
        if self.stopped_by:
            return 128 + self.stopped_by
        return 1 if self.failed else 0


class Report:
    """Keeps the counts, the file of failures and the progress bar."""

    def __init__(self, failures: Path, result: BuildResult, *, quiet: bool) -> None:
        self._path = failures
        self._result = result
        self._bytes = 0
        self._started = time.monotonic()
        # If stderr is not a terminal, every update of the bar is a separate line, so updates are rare.
        every = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=result.listed,
            initial=result.stored_before,
            unit="video",
            disable=quiet,
            mininterval=every,
        )

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def stored(self, size: int) -> None:
        """Count a video of `size` bytes as stored."""
        self._result.stored += 1
        self._bytes += size
        self._show()

    def failed(self, video_id: str, path: Path | None, error: VideoError) -> None:
        """Count a video as failed and append the reason to failures.jsonl."""
        self._result.failed[error.reason] += 1
        line = {"video_id": video_id, "reason": error.reason, "message": error.message}
        line["file"] = os.fsencode(path.name).decode("utf-8", "replace") if path else ""
        with (
            file_errors(self._path, "cannot be written"),
            open(self._path, "a", encoding="utf-8", errors=ESCAPED) as file,
        ):
            file.write(_json_line(line))
        self._show()

    def _show(self) -> None:
        rate = self._bytes / max(1e-9, time.monotonic() - self._started) / 1e6
        failed = sum(self._result.failed.values())
        self._bar.set_postfix_str(f"{rate:.1f} MB/s, {failed} failed", refresh=False)
        self._bar.update()


class StopSignals:
    """Stores the signal that asks to stop as a number in `received`, so that no write is interrupted.

    Signals within `ONE_REQUEST_S` of the first one belong to it. A later one ends the process.
    """

    def __init__(self) -> None:
        self.received = 0
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in signals_to_handle():
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread, which alone may handle signals
                return self
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._first = number, time.monotonic()
        elif time.monotonic() - self._first > ONE_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _json_line(record: dict[str, str]) -> str:
    """A record as a line of JSON. Ids and names that UTF-8 cannot encode are escaped."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record)
    return line + "\n"
