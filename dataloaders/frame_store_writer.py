"""Write a frame store: whole videos at a time, never half of one, whatever stops the process.

Legend: n stored frames of a video. The keys and records are described in `frame_store_format`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb

from dataloaders.frame_store_format import (
    DATA_FILE,
    METADATA_FILE,
    STATE_KEY,
    FrameStoreError,
    check_video_id,
    frame_key,
    to_json,
    video_key,
)

FORMAT_VERSION = 1
_FIRST_MAP = 64 << 20
_LARGEST_STEP = 4 << 30
_BATCH_BYTES = 32 << 20


class FrameStoreWriter:
    """Writes videos into the LMDB environment in folder `path` (made where absent; a finished one grows).

    A context manager. `put` gathers videos; every `batch_bytes` they are committed together with the state,
    so that what the file holds is always a whole number of videos and a state that counts them. Leaving the
    block normally marks the store complete and writes `metadata.json`; leaving it by an exception keeps what
    is committed and leaves the store marked incomplete, which readers refuse.

    `settings` are what all videos of a store share; a store made with others is refused (`FrameStoreError`).
    `expected` is the number of videos that the store will hold when complete. `map_size` is only where the
    map starts, in bytes: it grows by itself.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        settings: dict[str, Any] | None = None,
        expected: int | None = None,
        map_size: int = _FIRST_MAP,
        batch_bytes: int = _BATCH_BYTES,
    ) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._batch_bytes = batch_bytes
        self._pending: dict[str, list[tuple[bytes, bytes | memoryview]]] = {}
        self._pending_bytes = 0
        self._env = self._open(map_size)
        try:
            self._state = self._read_state(settings)
            self.expect(expected)
        except BaseException:
            self._env.close()
            raise

    def _open(self, map_size: int) -> lmdb.Environment:
        try:
            return lmdb.open(str(self.path), subdir=True, map_size=map_size, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise FrameStoreError(
                f"frame store {self.path}: cannot be opened for writing: {error}"
            ) from error

    def _read_state(self, settings: dict[str, Any] | None) -> dict[str, Any]:
        with self._env.begin() as txn:
            data, entries = txn.get(STATE_KEY), txn.stat()["entries"]
        if data is None:
            if entries:
                raise FrameStoreError(
                    f"frame store {self.path}: has frames but no manifest; it is not added to"
                )
            return {"format": FORMAT_VERSION, "videos": 0, "frames": 0, "settings": settings or {}}
        state: dict[str, Any] = json.loads(data)
        if settings is not None and settings != state["settings"]:
            differences = _differences(state["settings"], settings)
            raise FrameStoreError(f"frame store {self.path}: made with other settings: {differences}")
        return state

    def expect(self, expected: int | None) -> None:
        """Mark the store incomplete until `finish`, `expected` videos in all (None: not known)."""
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
        with self._env.begin() as txn:
            return video_id in self._pending or txn.get(video_key(video_id)) is not None

    @property
    def videos(self) -> int:
        """The number of videos committed so far."""
        return int(self._state["videos"])

    def put(
        self, video_id: str, jpegs: Sequence[bytes | memoryview], *, record: dict[str, Any] | None = None
    ) -> None:
        """Store a video's frames (JPEGs, at least one) with `record` as its manifest.

        Raises `ValueError` on an id that cannot be a key, on a video that is there already and on no frames.
        """
        check_video_id(video_id)
        if not jpegs:
            raise ValueError(f"video {video_id!r}: no frames to store")
        if video_id in self:
            raise ValueError(f"video {video_id!r}: already in the frame store {self.path}")
        items: list[tuple[bytes, bytes | memoryview]] = [
            (frame_key(video_id, index), jpeg) for index, jpeg in enumerate(jpegs)
        ]
        items.append((video_key(video_id), to_json({**(record or {}), "frames": len(jpegs)})))
        self._pending[video_id] = items
        self._pending_bytes += sum(len(value) for _, value in items)
        if self._pending_bytes >= self._batch_bytes:
            self.commit()

    def commit(self) -> None:
        """Make all videos put so far durable."""
        if not self._pending:
            return
        state = dict(self._state)
        state["videos"] += len(self._pending)
        state["frames"] += sum(len(items) - 1 for items in self._pending.values())
        self._write(
            [item for items in self._pending.values() for item in items] + [(STATE_KEY, to_json(state))]
        )
        self._state = state
        self._pending, self._pending_bytes = {}, 0

    def _write(self, items: Sequence[tuple[bytes, bytes | memoryview]]) -> None:
        """Write `items` in one transaction, with a larger map where the map is too small."""
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for key, value in items:
                        txn.put(key, value)
                return
            except lmdb.MapFullError:
                self._grow(sum(len(value) for _, value in items))

    def _grow(self, needed: int) -> None:
        size = self._env.info()["map_size"]
        self._env.set_mapsize(size + max(min(size, _LARGEST_STEP), 2 * needed))

    def finish(self) -> None:
        """Commit, mark the store complete and write `metadata.json`."""
        self.commit()
        self._state.update(complete=True, expected=self._state["videos"])
        self._write([(STATE_KEY, to_json(self._state))])
        temporary = self.path / f"{METADATA_FILE}.tmp"
        temporary.write_text(json.dumps({"length": self._state["videos"]}) + "\n", encoding="utf-8")
        temporary.replace(self.path / METADATA_FILE)

    def close(self) -> None:
        """Close the environment; videos that were not committed are not kept."""
        self._env.close()


def store_exists(path: str | os.PathLike[str]) -> bool:
    """Whether an LMDB environment lies in folder `path`."""
    return (Path(path) / DATA_FILE).is_file()


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(f"{name} {old.get(name)!r} there, {new.get(name)!r} now" for name in names)
