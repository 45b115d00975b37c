"""Write a frame store. A video is stored with all its frames or not at all, even if the process is killed.

Legend: n stored frames of a video. format.py describes the keys and records.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb

from common.atomic_files import write_text
from common.errors import file_errors
from common.locks import FileLock, LockedError
from dataloaders.frame_store.environment import check_length
from dataloaders.frame_store.format import (
    DATA_FILE,
    LOCK_FILE,
    METADATA_FILE,
    STATE_KEY,
    FrameStoreError,
    FrameStoreWriteError,
    check_video_id,
    differences,
    frame_key,
    from_json,
    to_json,
    video_key,
)

FORMAT_VERSION = 1
_FIRST_MAP = 64 << 20
_LARGEST_STEP = 4 << 30
_BATCH_BYTES = 32 << 20
# A finished file is rewritten if more than this share of its pages is free.
_WORTH_COMPACTING = 0.05

_REMEDY = "build it again with --overwrite"

Item = tuple[bytes, "bytes | memoryview"]


class FrameStoreWriter:
    """Writes videos into the LMDB environment in folder `path`. Makes the folder; adds to a finished store.

    A context manager. `put` collects videos; every `batch_bytes` they are committed together with the state
    record, so the file always holds complete videos and their right count. Leaving the block normally marks
    the store complete and writes `metadata.json`. Leaving it by an exception keeps what is committed; the
    store stays marked incomplete, and readers refuse it.

    `settings` are shared by all videos of a store; a store with other settings is refused. `expected`: the
    number of videos when complete. `map_size`: the first size of the map in bytes; it grows automatically.
    `overwrite`: first remove the store that is in the folder. Raises `FrameStoreError` if the store cannot be
    written: another process writes to it, it has other settings or no manifests, the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        settings: dict[str, Any] | None = None,
        expected: int | None = None,
        map_size: int = _FIRST_MAP,
        batch_bytes: int = _BATCH_BYTES,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._batch_bytes = batch_bytes
        self._pending: dict[str, list[Item]] = {}
        self._pending_bytes = 0
        with file_errors(self.path, "cannot be made"):
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FileLock(self.path / LOCK_FILE)
        except LockedError as error:
            raise FrameStoreError(f"frame store {error}") from None
        self._env: lmdb.Environment | None = None
        try:
            if overwrite:
                remove_store(self.path)
            self._env = self._open(map_size)
            self._state = self._read_state(settings)
            if expected is not None or not self._state["complete"]:
                self.expect(expected)
        except BaseException:
            self.close()
            raise

    def _open(self, map_size: int) -> lmdb.Environment:
        # LMDB's own lock file is not needed: `FileLock` keeps other writers out, readers use no lock.
        options: dict[str, Any] = {
            "subdir": True,
            "lock": False,
            "readahead": False,
            "meminit": False,
            "mode": 0o644,
        }
        try:
            env = lmdb.open(str(self.path), map_size=map_size, **options)
        except lmdb.Error as error:
            if os.strerror(errno.ENOSPC) in str(error):
                raise FrameStoreWriteError(f"frame store {self.path}: {_cause(error, self.path)}") from error
            raise self._error(f"cannot be opened for writing: {error}") from error
        check_length(env, self.path)
        return env

    def _error(self, message: str) -> FrameStoreError:
        return FrameStoreError(f"frame store {self.path}: {message}")

    @property
    def _open_env(self) -> lmdb.Environment:
        assert self._env is not None, "the writer is closed"
        return self._env

    def _read_state(self, settings: dict[str, Any] | None) -> dict[str, Any]:
        try:
            with self._open_env.begin() as txn:
                state, entries = from_json(txn.get(STATE_KEY)), txn.stat()["entries"]
        except (lmdb.Error, ValueError) as error:
            raise self._error(f"its state record: the file is damaged ({error}); {_REMEDY}") from None
        if state is None:
            if entries:
                raise self._error("has frames but no manifests, so nothing can be added; choose another")
            state = {"format": FORMAT_VERSION, "videos": 0, "frames": 0, "failed": 0, "complete": False}
            return {**state, "settings": settings or {}}
        if settings is not None and settings != state["settings"]:
            names = differences(state["settings"], settings)
            raise self._error(f"made with other settings: {names}; choose another, or overwrite it")
        return state

    def expect(self, expected: int | None) -> None:
        """Mark the store incomplete until `finish`; it will have `expected` videos (None: not known)."""
        self._state.update(complete=False, expected=expected)
        self._write([(STATE_KEY, to_json(self._state))])

    def __enter__(self) -> FrameStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self.close()

    def __contains__(self, video_id: object) -> bool:
        if not isinstance(video_id, str):
            return False
        with self._open_env.begin() as txn:
            return video_id in self._pending or txn.get(video_key(video_id)) is not None

    def record(self, video_id: str) -> dict[str, Any] | None:
        """The manifest of a committed video; None if it is not committed."""
        try:
            with self._open_env.begin() as txn:
                return from_json(txn.get(video_key(video_id)))
        except (lmdb.Error, ValueError) as error:
            raise self._error(f"video {video_id!r}: the file is damaged ({error}); {_REMEDY}") from None

    @property
    def videos(self) -> int:
        """The number of videos committed so far."""
        return int(self._state["videos"])

    def put(
        self,
        video_id: str,
        jpegs: Sequence[bytes | memoryview],
        *,
        record: dict[str, Any] | None = None,
    ) -> None:
        """Store the frames of a video (JPEGs, at least one) with `record` as its manifest.

        Raises `UserError` if the id cannot be a key, the video is already stored, or there are no frames.
        """
        check_video_id(video_id)
        if not jpegs:
            raise FrameStoreError(f"video {video_id!r}: no frames to store")
        if video_id in self:
            raise FrameStoreError(f"video {video_id!r}: already in the frame store {self.path}")
        items: list[Item] = [(frame_key(video_id, index), jpeg) for index, jpeg in enumerate(jpegs)]
        items.append((video_key(video_id), to_json({**(record or {}), "frames": len(jpegs)})))
        self._pending[video_id] = items
        self._pending_bytes += sum(len(value) for _, value in items)
        if self._pending_bytes >= self._batch_bytes:
            self.commit()

    def commit(self) -> None:
        """Commit all videos that were put so far."""
        if not self._pending:
            return
        self._state["complete"] = False
        state = dict(self._state)
        state["videos"] += len(self._pending)
        state["frames"] += sum(len(items) - 1 for items in self._pending.values())
        self._write([item for items in self._pending.values() for item in items], state=state)
        self._state = state
        self._pending, self._pending_bytes = {}, 0

    def _write(self, items: list[Item], *, state: dict[str, Any] | None = None) -> None:
        """Write `items` and the state in one transaction; enlarge the map if it is too small."""
        if state is not None:
            items = [*items, (STATE_KEY, to_json(state))]
        while True:
            try:
                with self._open_env.begin(write=True) as txn:
                    for key, value in items:
                        txn.put(key, value)
                return
            except lmdb.MapFullError:
                self._grow(sum(len(value) for _, value in items))
            except (lmdb.Error, OSError) as error:
                stored = f"the {self.videos} videos stored so far are kept"
                cause = _cause(error, self.path, needed=sum(len(value) for _, value in items))
                message = f"frame store {self.path}: cannot be written to: {cause}; {stored}"
                raise FrameStoreWriteError(message) from error

    def _grow(self, needed: int) -> None:
        size = self._open_env.info()["map_size"]
        step = max(min(size, _LARGEST_STEP), 2 * needed)
        try:
            self._open_env.set_mapsize(size + step)
        except (lmdb.Error, MemoryError) as error:
            raise FrameStoreWriteError(
                f"frame store {self.path}: no address space for a map of {size + step} bytes ({error}); "
                f"raise `ulimit -v`; the {self.videos} videos stored so far are kept"
            ) from error

    def finish(self, *, failed: int = 0) -> None:
        """Commit, mark the store complete, remove free pages, write `metadata.json`.

        `failed` is the number of videos that could not be stored.
        """
        self.commit()
        self._state.update(complete=True, expected=self._state["videos"], failed=failed)
        self._write([], state=self._state)
        self._compact()
        write_metadata(self.path, videos=self.videos)

    def _compact(self) -> None:
        """Rewrite the file without its free pages if they are many and the disk has room for a copy."""
        with self._open_env.begin() as txn:
            stat = txn.stat()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        pages = self._open_env.info()["last_pgno"] + 1
        if pages - used < max(_WORTH_COMPACTING * pages, 64):
            return
        copy = self.path / "compact.tmp"
        shutil.rmtree(copy, ignore_errors=True)
        if shutil.disk_usage(self.path).free < used * stat["psize"] * 1.1:
            return
        copy.mkdir()
        try:
            self._open_env.copy(str(copy), compact=True)
            with open(copy / DATA_FILE, "rb+") as file:
                os.fsync(file.fileno())
        except (lmdb.Error, OSError):  # no room after all, for example a quota: the store is valid as it is
            shutil.rmtree(copy, ignore_errors=True)
            return
        self._open_env.close()
        os.replace(copy / DATA_FILE, self.path / DATA_FILE)
        shutil.rmtree(copy, ignore_errors=True)
        self._env = self._open(_FIRST_MAP)

    def close(self) -> None:
        """Close the store. Videos that were not committed are lost."""
        if self._env is not None:
            self._env.close()
            self._env = None
        self._lock.release()


def remove_store(path: Path) -> None:
    """Remove the files of the store in folder `path`, and nothing else."""
    for name in (DATA_FILE, "lock.mdb", METADATA_FILE):
        (path / name).unlink(missing_ok=True)


def write_metadata(path: Path, *, videos: int) -> None:
    """Write the published `metadata.json` of a store: its number of videos."""
    write_text(path / METADATA_FILE, json.dumps({"length": videos}) + "\n")


def _cause(error: Exception, path: Path, *, needed: int = 0) -> str:
    """Why a write of `needed` bytes failed. On a full disk, LMDB reports an input/output error."""
    text = str(error)
    full = isinstance(error, lmdb.DiskError) or os.strerror(errno.ENOSPC) in text
    full = full or shutil.disk_usage(path).free < needed
    return f"the disk is full ({text}); free space and run the command again" if full else text
