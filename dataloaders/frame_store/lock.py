"""One writer at a time in a frame store's folder."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import IO

from dataloaders.frame_store.format import LOCK_FILE, FrameStoreError


def lock_folder(path: Path) -> IO[str] | None:
    """Keep other writers out of `path`; the lock ends with this process, whatever ends it.

    None where the file system has no locks. Raises `FrameStoreError` where another process holds it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    while True:
        lock = open(path / LOCK_FILE, "a", encoding="utf-8")  # noqa: SIM115 (it stays open while writing)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise FrameStoreError(f"frame store {path}: another process is writing to it") from None
            return None  # a file system without locks
        # The file may have been removed by the writer before, between opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), (path / LOCK_FILE).stat()):
                return lock
        lock.close()


def unlock_folder(path: Path, lock: IO[str] | None) -> None:
    """Let other writers in again; `lock` is what `lock_folder` gave."""
    if lock is not None:
        (path / LOCK_FILE).unlink(missing_ok=True)
        lock.close()
