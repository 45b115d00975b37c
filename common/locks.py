"""File locks: one process at a time; released when the process ends, even if it is killed."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path
from typing import IO

from common.errors import UserError, file_errors


class LockedError(UserError):
    """Another process holds the lock; `holder` says which: its process id, or "unknown"."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path.parent}: another process (pid {holder}) is writing to it; wait for it")
        self.holder = holder


class FileLock:
    """Locks `path`, a file that is created for the lock and removed on release. A context manager.

    `holder` is what others are told about this process, by default its process id. Forks of this process do
    not hold the lock: it is free as soon as this process ends.
    Raises `LockedError` if another process holds the lock, `FileError` if `path` cannot be created. On
    Windows and on file systems without locks nothing is locked, and no error is raised.
    """

    def __init__(self, path: Path, *, holder: str | None = None) -> None:
        self.path = path
        with file_errors(path, "cannot be locked"):
            self._file: IO[str] | None = _locked_file(path)
        with contextlib.suppress(OSError):  # on a full disk the lock works without the process id
            self._file.truncate(0)
            self._file.write(holder or str(os.getpid()))
            self._file.flush()
        _held.add(self)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._forget()

    def _forget(self) -> None:
        """Close this process's copy of the lock. The lock is free when no process has one."""
        if self._file is not None:
            self._file.close()
            self._file = None


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_all)


def _locked_file(path: Path) -> IO[str]:
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (it stays open while the lock is held)
        if sys.platform == "win32":
            return file
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise LockedError(path, holder) from None
        except OSError:  # a file system without locks
            return file
        # The process that held it before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
