"""What the processes of one run of the tests share: a folder, and what the first of them makes there."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

VARIABLE = "HMMC_TEST_RUN"  # environment: the folder


def folder() -> Path:
    """The folder of this run. The process that asks first makes it, and those that it starts find it.

    It holds a named pipe, `alive`, whose end is the end of that process.
    """
    if VARIABLE not in os.environ:
        made, owner = Path(tempfile.mkdtemp(prefix="run")), os.getpid()
        os.mkfifo(made / "alive")
        os.open(made / "alive", os.O_RDWR)  # stays open: neither the program nor the children close it
        os.environ[VARIABLE] = str(made)

        def end() -> None:
            if os.getpid() == owner:  # not in its forks
                shutil.rmtree(made, ignore_errors=True)

        atexit.register(end)
    return Path(os.environ[VARIABLE])


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in that of the run, which `make` fills once; other processes wait for it."""
    path = folder() / name
    with open(folder() / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "done").exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            make(path)
            (path / "done").touch()
    return path
