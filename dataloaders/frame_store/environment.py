"""LMDB environments that are open for reading: one per file and process, as LMDB demands.

They are opened without locks, so that read-only media and other people's stores work and no slot in a reader
table can leak. The map starts small; LMDB enlarges it to the size of the data. A forked child opens its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path

import lmdb

from common.errors import file_errors
from dataloaders.frame_store.format import DATA_FILE, FrameStoreError

_SMALL_MAP = 1 << 20
_SPARE_PAGES = 64


class ReadOnlyEnvironment:
    """One LMDB environment, opened on first use and again after a fork; closed when nothing refers to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._env: lmdb.Environment | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def begin(self) -> lmdb.Transaction:
        """A read transaction with zero-copy buffers. It sees everything that is committed now."""
        env = self._env if self._pid == os.getpid() and self._env is not None else self._open()
        try:
            return env.begin(buffers=True)
        except lmdb.MapResizedError:  # the store has grown since it was opened
            env.set_mapsize(0)
            return env.begin(buffers=True)

    def close(self) -> None:
        """Close the file in this process. Reading opens it again."""
        with self._lock:
            if self._env is not None:
                self._env.close()
            self._env = None

    def _open(self) -> lmdb.Environment:
        with self._lock:
            if self._env is not None and self._pid == os.getpid():
                return self._env
            if self._env is not None:
                self._env.close()  # inherited by fork: closes the child's copy, not the parent's
            self._env = _open_read_only(self.path)
            self._pid = os.getpid()
            return self._env


def _open_read_only(path: str) -> lmdb.Environment:
    file = os.path.join(path, DATA_FILE) if os.path.isdir(path) else path
    with file_errors(file):
        size = os.path.getsize(file)
    if not size:  # its builder was killed before the first write
        raise FrameStoreError(f"frame store {path}: incomplete: nothing stored yet; build it again")
    try:
        env = lmdb.open(
            path,
            subdir=os.path.isdir(path),
            readonly=True,
            create=False,
            lock=False,
            readahead=False,
            meminit=False,
            map_size=_SMALL_MAP,
        )
    except lmdb.Error as error:
        raise FrameStoreError(f"frame store {path}: cannot be opened: {error}") from error
    check_length(env, file)
    return env


def check_length(env: lmdb.Environment, path: str | os.PathLike[str]) -> None:
    """Close `env` and raise `FrameStoreError` if its data file is shorter than its header says.

    `path` is the data file or its folder. Reading past the end of a file kills the process (SIGBUS). LMDB may
    leave a few empty pages at the end unwritten, so a small gap is allowed.
    """
    file = os.path.join(path, DATA_FILE) if os.path.isdir(path) else path
    page = env.stat()["psize"]
    needed, size = (env.info()["last_pgno"] + 1) * page, os.path.getsize(file)
    if size < needed - _SPARE_PAGES * page:
        env.close()
        raise FrameStoreError(f"frame store {path}: cut off: {size} bytes of {needed}; copy it again")


_environments: weakref.WeakValueDictionary[str, ReadOnlyEnvironment] = weakref.WeakValueDictionary()
_environments_lock = threading.Lock()


def shared_environment(path: Path) -> ReadOnlyEnvironment:
    """The environment of this process for the file or folder at `path`, whichever name leads to it."""
    real = os.path.realpath(path)
    with _environments_lock:
        environment = _environments.get(real)
        if environment is None:
            environment = _environments[real] = ReadOnlyEnvironment(real)
        return environment


def _renew_locks_after_fork() -> None:
    """A lock that another thread held at the fork would stay locked in the child forever."""
    global _environments_lock
    _environments_lock = threading.Lock()
    for environment in list(_environments.values()):
        environment._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks_after_fork)
