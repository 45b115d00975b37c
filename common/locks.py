"""One process at a time: a lock on a file that ends with the process, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO

from common.errors import UserError, file_errors


class LockedError(UserError):
    """Another process holds the lock; `holder` is its process id, or "unknown"."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path.parent}: another process (pid {holder}) is writing to it; wait for it")
        self.holder = holder


class FileLock:
    """Holds `path`, which is made for it and removed at the end; a context manager.

    Raises `LockedError` where another process holds it, `FileError` where `path` cannot be made. On Windows
    and on file systems without locks there is none: then every process gets it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with file_errors(path, "cannot be locked"):
            self._file: IO[str] | None = _locked_file(path)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others in. A second call does nothing."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


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
