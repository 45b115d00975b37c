"""One process at a time, and none after the process is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import FileError
from common.locks import FileLock, LockedError

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import os, sys; from pathlib import Path; from common.locks import FileLock; "
HOLD += "lock = FileLock(Path(sys.argv[1])); child = os.fork(); "
HOLD += "child or print('held', flush=True); sys.stdin.read()"


def test_a_second_lock_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    path = tmp_path / "writing.lock"
    with FileLock(path):
        with pytest.raises(LockedError, match=rf"{tmp_path}: another process \(pid {os.getpid()}\)"):
            FileLock(path)
        assert path.exists()
    assert not path.exists()
    FileLock(path).release()


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    """Nor do its forks, such as loader processes that outlive it for some seconds."""
    path = tmp_path / "writing.lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(LockedError) as caught:
            FileLock(path)
        assert caught.value.holder == str(other.pid)
        other.kill()
        other.wait()
        FileLock(path).release()


def test_a_folder_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent/writing\.lock: cannot be locked \(No such file"):
        FileLock(tmp_path / "absent" / "writing.lock")
