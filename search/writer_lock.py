"""One writer at a time in an index folder; the lock ends with the process, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO

from search.index_format import LOCK_FILE, VideoIndexError


def lock_index(folder: Path) -> IO[str]:
    """Keep other writers out of `folder`. Raises `VideoIndexError` with the process id of who is there."""
    lock = open(folder / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115 (it stays open while writing)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise VideoIndexError(
                f"{folder}: another process (pid {holder}) is writing to this index; wait for it"
            ) from None
        except OSError:  # a file system without locks
            pass
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    return lock
