"""Which runs use a frame store that they also add to: each has a file in STORE/users as long as it lives.

Stores are read without locks, because many shared file systems have none: a reader beside a writer could see
a half-changed store. So only a run that is alone changes it. A run touches its file twice a minute; one that
was killed leaves a file that is soon too old to count. Ages are differences between files of one file system,
so the clocks of the machines do not matter.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import file_errors

FOLDER = "users"
TOUCH_EVERY = 30.0  # seconds
TOO_OLD = 300.0
_CHANGING = "changing-"  # begins the name of a run that changes the store now
_LOOK_EVERY = 1.0


class Presence:
    """This run's file in the folder of a store, from `join` to `leave`.

    `join` waits while another run changes the store. Who wants to change it enters `alone()`.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store / FOLDER
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._file = self._folder / self._name
        self._ended = threading.Event()
        self._lock = threading.Lock()  # so that no thread touches the file while it gets another name
        self._thread: threading.Thread | None = None

    def join(self, *, waiting: Callable[[str], None]) -> None:
        """Say that this run uses the store. `waiting(name)` is called once if another run changes it.

        Raises `FileError` if the folder cannot be written to.
        """
        with file_errors(self._folder, "cannot be written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file.touch()
        self._thread = threading.Thread(target=self._touch, name="presence", daemon=True)
        self._thread.start()
        told = False
        while changing := [name for name in self.others() if name.startswith(_CHANGING)]:
            if not told:
                waiting(changing[0].removeprefix(_CHANGING))
            told = True
            time.sleep(_LOOK_EVERY)

    def others(self) -> list[str]:
        """The names of the other runs that use the store now."""
        self._file.touch()
        return [
            name for name in _present(self._folder, self._file.stat().st_mtime) if name != self._file.name
        ]

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this run may change the store in the block: no other run uses it, and new ones wait."""
        if self.others():
            yield False
            return
        changing = self._folder / f"{_CHANGING}{self._name}"
        self._rename(changing)
        try:
            # One that came meanwhile has seen the new name, or we see its file now.
            yield not self.others()
        finally:
            self._rename(self._folder / self._name)

    def leave(self) -> None:
        """Remove the file, and those that killed runs have left. A second call does nothing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            with contextlib.suppress(OSError):
                _remove_old(self._folder, self._file.stat().st_mtime)
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self._folder.rmdir()

    def _rename(self, target: Path) -> None:
        with self._lock:
            self._file.rename(target)
            self._file = target

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_EVERY):
            with self._lock, contextlib.suppress(OSError):
                self._file.touch()


def users_of(store: Path) -> list[str]:
    """The names of the runs that use the store in folder `store` and may add to it."""
    folder = store / FOLDER
    if not folder.is_dir():
        return []
    look = folder / f"look-{uuid.uuid4().hex}"
    with file_errors(folder, "cannot be written"):
        look.touch()  # its time is "now" for this file system
        now = look.stat().st_mtime
        look.unlink()
    return _present(folder, now)


def _present(folder: Path, now: float) -> list[str]:
    return sorted(name for name, age in _ages(folder, now) if age < TOO_OLD)


def _remove_old(folder: Path, now: float) -> None:
    """Remove the files of runs that were killed."""
    for name, age in _ages(folder, now):
        if age >= TOO_OLD:
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)


def _ages(folder: Path, now: float) -> list[tuple[str, float]]:
    ages = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # it has left
                ages.append((entry.name, now - entry.stat().st_mtime))
    return ages
