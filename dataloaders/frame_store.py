"""Read-only access to frame stores: ours, the published ones as they are, and sharded ones.

Legend: n stored frames of a video, i frame number 0..n-1; pictures are RGB uint8 [H, W, 3].

LMDB allows one environment per file and process. All `FrameStore` objects of a process therefore share
one, found by real path; it opens without locks (so that read-only media and other people's stores work, and
no slot in a reader table can leak), and opens again by itself in a forked child. Only the path is pickled.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np

from dataloaders.frame_store_format import (
    STATE_KEY,
    FrameStoreError,
    find_shards,
    frame_key,
    shard_of,
    video_key,
)

__all__ = ["FrameStore", "FrameStoreError", "decode_jpeg"]

# LMDB raises this to the size of the data by itself; a larger value only wastes address space.
_SMALL_MAP = 1 << 20
# Frames a video in the published stores (METHOD section 7): tried before probing blindly.
_USUAL_COUNTS = (30, 48)


class _Environment:
    """One LMDB environment, opened on first use and again after a fork."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._env: lmdb.Environment | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def begin(self) -> lmdb.Transaction:
        """A read transaction with zero-copy buffers, seeing all that is committed now."""
        env = self._env if self._pid == os.getpid() and self._env is not None else self._open()
        try:
            return env.begin(buffers=True)
        except lmdb.MapResizedError:  # the store has grown since it was opened
            env.set_mapsize(0)
            return env.begin(buffers=True)

    def _open(self) -> lmdb.Environment:
        with self._lock:
            if self._env is not None and self._pid == os.getpid():
                return self._env
            if self._env is not None:
                self._env.close()  # inherited by fork: this closes the child's copy, not the parent's
            self._env = _open_read_only(self.path)
            self._pid = os.getpid()
            return self._env


def _open_read_only(path: str) -> lmdb.Environment:
    try:
        return lmdb.open(
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


_environments: weakref.WeakValueDictionary[str, _Environment] = weakref.WeakValueDictionary()
_environments_lock = threading.Lock()


def _shared_environment(path: Path) -> _Environment:
    real = os.path.realpath(path)
    with _environments_lock:
        environment = _environments.get(real)
        if environment is None:
            environment = _environments[real] = _Environment(real)
        return environment


def _renew_locks_after_fork() -> None:
    """A lock that another thread held when the process forked would stay locked in the child for ever."""
    global _environments_lock
    _environments_lock = threading.Lock()
    for environment in list(_environments.values()):
        environment._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks_after_fork)


class FrameStore:
    """The frames of many videos, by video id and frame number.

    `path` is a folder with `data.mdb`, a folder of shards, or a single LMDB file. Raises `FrameStoreError`
    where it is none of these, or where its building did not finish (unless `allow_incomplete`).
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> None:
        self.path = Path(path)
        self._allow_incomplete = allow_incomplete
        self._last_count = _USUAL_COUNTS[0]
        self._shards: list[_Environment] | None = None
        self._shards = self._open_shards()

    def _open_shards(self) -> list[_Environment]:
        if self._shards is None:
            shards = [_shared_environment(path) for path in find_shards(self.path)]
            if not self._allow_incomplete:
                for shard in shards:
                    _check_complete(shard)
            self._shards = shards
        return self._shards

    def __getstate__(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "_allow_incomplete": self._allow_incomplete,
            "_last_count": self._last_count,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _shards=None)

    def __repr__(self) -> str:
        return f"FrameStore({str(self.path)!r})"

    def _begin(self, video_id: str) -> lmdb.Transaction:
        shards = self._open_shards()
        return shards[shard_of(video_id, len(shards)) if len(shards) > 1 else 0].begin()

    def close(self) -> None:
        """Let go of the environment; it closes when no other store object uses it. Reading opens it again."""
        self._shards = None

    def __contains__(self, video_id: object) -> bool:
        return isinstance(video_id, str) and self.num_frames(video_id) > 0

    def missing(self, video_ids: Iterable[str]) -> list[str]:
        """Those of `video_ids` that have no frames here, in their order, each once."""
        return [video_id for video_id in dict.fromkeys(video_ids) if video_id not in self]

    def video_ids(self) -> Iterator[str]:
        """All videos of the store's manifest, in key order; nothing for stores that have none."""
        for shard in self._open_shards():
            with shard.begin() as txn:
                yield from _manifest_ids(txn)

    def manifest(self, video_id: str) -> dict[str, Any] | None:
        """What the builder noted on a video (docs/FRAME_STORE.md), or None in stores without a manifest."""
        with self._begin(video_id) as txn:
            return _load_json(txn.get(video_key(video_id)))

    def states(self) -> list[dict[str, Any] | None]:
        """The state record of every shard; None for environments in the published layout, which have none."""
        states = []
        for shard in self._open_shards():
            with shard.begin() as txn:
                states.append(_load_json(txn.get(STATE_KEY)))
        return states

    def num_frames(self, video_id: str) -> int:
        """How many frames of a video are stored, n; 0 where the store does not hold it."""
        with self._begin(video_id) as txn:
            record = _load_json(txn.get(video_key(video_id)))
            if record is not None:
                return int(record["frames"])
            count = _probe_count(txn, video_id, guesses=(self._last_count, *_USUAL_COUNTS))
        if count:
            self._last_count = count
        return count

    def read_jpegs(self, video_id: str, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The stored JPEGs of the frames `indices`. Raises `FrameStoreError` on an absent or empty one."""
        with self._begin(video_id) as txn:
            return [bytes(self._get(txn, video_id, int(index))) for index in indices]

    def read_frames(self, video_id: str, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The pictures of the frames `indices`, each RGB uint8 [H, W, 3].

        Raises `FrameStoreError` on a frame that is absent, empty, cut off or no JPEG.
        """
        frames = []
        with self._begin(video_id) as txn:
            for index in indices:
                data = self._get(txn, video_id, int(index))
                try:
                    frames.append(decode_jpeg(data))
                except ValueError as error:
                    raise FrameStoreError(f"{self._name(video_id, int(index))}: {error}") from None
        return frames

    def _get(self, txn: lmdb.Transaction, video_id: str, index: int) -> bytes | memoryview:
        data = txn.get(frame_key(video_id, index))
        if data is None:
            raise FrameStoreError(
                f"{self._name(video_id, index)}: not stored; {_what_is_there(txn, video_id)}"
            )
        if not len(data):
            raise FrameStoreError(f"{self._name(video_id, index)}: empty (0 bytes)")
        return data

    def _name(self, video_id: str, index: int) -> str:
        return f"frame store {self.path}: video {video_id!r}, frame {index}"


def decode_jpeg(data: bytes | memoryview) -> np.ndarray:
    """A JPEG's picture, RGB uint8 [H, W, 3]. Raises `ValueError` where it is no JPEG, cut off or broken.

    The decoder fills a cut-off picture up with grey and says nothing, so the end mark is looked for here.
    """
    view = memoryview(data)
    if bytes(view[:2]) != b"\xff\xd8":
        raise ValueError("not a JPEG")
    if b"\xff\xd9" not in bytes(view[-64:]):  # some encoders pad after the end mark
        raise ValueError(f"broken JPEG: cut off after {len(view)} bytes")
    try:
        picture = cv2.imdecode(np.frombuffer(view, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"broken JPEG: {error.err}") from None
    if picture is None:
        raise ValueError("broken JPEG: it cannot be decoded")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)


def _load_json(data: bytes | memoryview | None) -> dict[str, Any] | None:
    return None if data is None else json.loads(bytes(data))


def _manifest_ids(txn: lmdb.Transaction) -> Iterator[str]:
    prefix = video_key("")
    cursor = txn.cursor()
    if not cursor.set_range(prefix):
        return
    for key in cursor.iternext(keys=True, values=False):
        name = bytes(key)
        if not name.startswith(prefix):
            return
        yield name[len(prefix) :].decode()


def _probe_count(txn: lmdb.Transaction, video_id: str, *, guesses: Sequence[int]) -> int:
    """The number of frames of a video found by asking for keys: guesses first, then doubling and halving."""

    def has(index: int) -> bool:
        return txn.get(frame_key(video_id, index)) is not None

    if not has(0):
        return 0
    for guess in guesses:
        if has(guess - 1) and not has(guess):
            return guess
    beyond = 1
    while has(beyond):
        beyond *= 2
    held = beyond // 2
    while beyond - held > 1:
        middle = (held + beyond) // 2
        held, beyond = (middle, beyond) if has(middle) else (held, middle)
    return beyond


def _what_is_there(txn: lmdb.Transaction, video_id: str) -> str:
    record = _load_json(txn.get(video_key(video_id)))
    if record is not None:
        return f"the manifest says {record['frames']} frames (0 to {record['frames'] - 1})"
    count = _probe_count(txn, video_id, guesses=_USUAL_COUNTS)
    return f"the store has {count} frames of it" if count else "the store has no frame of it"


def _check_complete(shard: _Environment) -> None:
    with shard.begin() as txn:
        state = _load_json(txn.get(STATE_KEY))
    if state is not None and not state["complete"]:
        stored, expected = state["videos"], state.get("expected")
        raise FrameStoreError(
            f"frame store {shard.path}: incomplete: {stored} of {expected or '?'} videos; run the command "
            f"that builds it again (tools/frame2lmdb.py goes on where it stopped)"
        )
