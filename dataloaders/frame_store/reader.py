"""Read-only access to frame stores: ours, the published ones, and stores in shards.

Legend: n stored frames of a video, i frame number 0..n-1; pictures are RGB uint8 [H, W, 3].

Only the path of a store is pickled. All readers in a process share one open file; a forked child opens it
again (environment.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from common.errors import UserError
from dataloaders.frame_store.environment import ReadOnlyEnvironment, shared_environment
from dataloaders.frame_store.format import (
    MAX_KEY_BYTES,
    STATE_KEY,
    VIDEO_PREFIX,
    FrameStoreError,
    differences,
    find_shards,
    frame_key,
    from_json,
    shard_of,
    video_key,
)
from dataloaders.frame_store.jpeg import Excess, decode_jpeg

__all__ = ["FrameStore", "FrameStoreError", "decode_jpeg"]

# Frames a video in the published stores: tried first.
_USUAL_COUNTS = (30, 48)
_STATE_FIELDS = {"complete", "videos", "frames", "expected", "settings", "failed"}
_REMEDY = "copy it again, or build it again with --overwrite"


class FrameStore:
    """The frames of many videos, by video id and frame number.

    `path` is a folder with `data.mdb`, a folder of shards, or a single LMDB file. Raises `FrameStoreError`
    if it is none of these, or if building it did not finish (unless `allow_incomplete`).
    """

    kind = "frame store"

    def __init__(self, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> None:
        self.path = Path(path)
        self._allow_incomplete = allow_incomplete
        self._last_count = _USUAL_COUNTS[0]
        self._shards: list[ReadOnlyEnvironment] | None = None
        self._shards = self._open_shards()

    def _open_shards(self) -> list[ReadOnlyEnvironment]:
        if self._shards is None:
            shards = [shared_environment(path) for path in find_shards(self.path)]
            if not self._allow_incomplete:
                _check_complete(self.path, shards)
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

    @contextmanager
    def _begin(self, video_id: str) -> Iterator[lmdb.Transaction]:
        """A read transaction on the shard of a video. Errors of LMDB name that video."""
        shards = self._open_shards()
        shard = shards[shard_of(video_id, len(shards)) if len(shards) > 1 else 0]
        with _damage_errors(self._name(video_id)), shard.begin() as txn:
            yield txn

    def close(self) -> None:
        """Release the environment; it closes when no other store uses it. Reading opens it again."""
        self._shards = None

    def __contains__(self, video_id: object) -> bool:
        if not isinstance(video_id, str):
            return False
        with self._begin(video_id) as txn:
            return any(_get(txn, key) is not None for key in (video_key(video_id), frame_key(video_id, 0)))

    def has_frame(self, video_id: str, index: int) -> bool:
        """Whether frame `index` of a video has a key; its picture may still be broken."""
        with self._begin(video_id) as txn:
            return _get(txn, frame_key(video_id, index)) is not None

    def missing(self, video_ids: Iterable[str]) -> list[str]:
        """Those of `video_ids` that have no frames here, in their order, without repetitions."""
        return [video_id for video_id in dict.fromkeys(video_ids) if video_id not in self]

    def video_ids(self) -> Iterator[str]:
        """All videos of the store in key order, from the manifests, or from the frames' keys without any."""
        for shard in self._open_shards():
            with _damage_errors(f"frame store {shard.path}: the list of its videos"), shard.begin() as txn:
                listed = txn.get(STATE_KEY) is not None
                yield from _manifest_ids(txn) if listed else _ids_of_frames(txn)

    def manifest(self, video_id: str) -> dict[str, Any] | None:
        """The manifest of a video (docs/FRAME_STORE.md), or None in stores without manifests."""
        with self._begin(video_id) as txn:
            return self._record(txn, video_id)

    def _record(self, txn: lmdb.Transaction, video_id: str) -> dict[str, Any] | None:
        try:
            record = from_json(_get(txn, video_key(video_id)))
            return record if record is None else {**record, "frames": int(record["frames"])}
        except (ValueError, KeyError, TypeError):
            raise FrameStoreError(f"{self._name(video_id)}: its manifest is broken; {_REMEDY}") from None

    def states(self) -> list[dict[str, Any] | None]:
        """The state record of every shard; None for the published layout, which has none."""
        return [_state(shard) for shard in self._open_shards()]

    def num_frames(self, video_id: str) -> int:
        """The number n of stored frames of a video; 0 if the store does not hold it."""
        with self._begin(video_id) as txn:
            record = self._record(txn, video_id)
            if record is not None:
                return int(record["frames"])
            count = _probe_count(txn, video_id, guesses=(self._last_count, *_USUAL_COUNTS))
        if count:
            self._last_count = count
        return count

    def read_jpegs(self, video_id: str, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The stored JPEGs of the frames `indices`. Raises `FrameStoreError` if one is absent or empty."""
        with self._begin(video_id) as txn:
            return [bytes(self._get(txn, video_id, int(index))) for index in indices]

    def read_frames(self, video_id: str, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The pictures of the frames `indices`, each RGB uint8 [H, W, 3].

        Raises `FrameStoreError` if a frame is absent, empty, cut off or not a JPEG.
        """
        return list(self.iter_frames(video_id, indices))

    def iter_frames(
        self, video_id: str, indices: Sequence[int] | np.ndarray, excess: Sequence[Excess] | None = None
    ) -> Iterator[np.ndarray]:
        """`read_frames` one by one: a picture that is used before the next is decoded is still in the cache.

        `excess`: see `decode_jpeg`, one for each frame.
        """
        with self._begin(video_id) as txn:
            for position, index in enumerate(indices):
                data = self._get(txn, video_id, int(index))
                try:
                    picture = decode_jpeg(data, None if excess is None else excess[position])
                except UserError as error:
                    raise FrameStoreError(f"{self._name(video_id, int(index))}: {error}") from None
                yield picture

    def _get(self, txn: lmdb.Transaction, video_id: str, index: int) -> bytes | memoryview:
        with _damage_errors(self._name(video_id, index)):
            data = _get(txn, frame_key(video_id, index))
        if data is None:
            raise FrameStoreError(
                f"{self._name(video_id, index)}: not stored; {self._stored_frames(txn, video_id)}"
            )
        if not len(data):
            raise FrameStoreError(f"{self._name(video_id, index)}: empty (0 bytes)")
        return data

    def _stored_frames(self, txn: lmdb.Transaction, video_id: str) -> str:
        record = self._record(txn, video_id)
        if record is not None:
            return f"the manifest says {record['frames']} frames (0 to {record['frames'] - 1})"
        count = _probe_count(txn, video_id, guesses=_USUAL_COUNTS)
        return f"the store has {count} frames of it" if count else "the store has no frame of it"

    def _name(self, video_id: str, index: int | None = None) -> str:
        frame = "" if index is None else f", frame {index}"
        return f"frame store {self.path}: video {video_id!r}{frame}"


@contextmanager
def _damage_errors(where: str) -> Iterator[None]:
    """Turn LMDB's errors on damaged pages, and keys that are not text, into `FrameStoreError`s."""
    try:
        yield
    except (lmdb.Error, UnicodeDecodeError) as error:
        raise FrameStoreError(f"{where}: the file is damaged ({error}); {_REMEDY}") from error


def _get(txn: lmdb.Transaction, key: bytes) -> bytes | memoryview | None:
    """The value of a key; None if it is absent or longer than LMDB allows."""
    return txn.get(key) if len(key) <= MAX_KEY_BYTES else None


def _manifest_ids(txn: lmdb.Transaction) -> Iterator[str]:
    cursor = txn.cursor()
    if not cursor.set_range(VIDEO_PREFIX):
        return
    for key in cursor.iternext(keys=True, values=False):
        name = bytes(key)
        if not name.startswith(VIDEO_PREFIX):
            return
        yield name[len(VIDEO_PREFIX) :].decode()


def _ids_of_frames(txn: lmdb.Transaction) -> Iterator[str]:
    """The ids of a store in the published layout: those with a frame 0."""
    for key in txn.cursor().iternext(keys=True, values=False):
        name = bytes(key)
        if name.endswith(b"_0") and not name.startswith(b"\0"):
            yield name[:-2].decode()


def _probe_count(txn: lmdb.Transaction, video_id: str, *, guesses: Sequence[int]) -> int:
    """The number of frames of a video, found by asking for keys: guesses first, then binary search."""

    def has(index: int) -> bool:
        return _get(txn, frame_key(video_id, index)) is not None

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


def _check_complete(path: Path, shards: Sequence[ReadOnlyEnvironment]) -> None:
    states = [state for state in map(_state, shards) if state is not None]
    if any(_is_empty(shard) for shard in shards):  # the builder was killed before the first record
        raise FrameStoreError(f"frame store {path}: incomplete: nothing stored yet; build it again")
    if all(state["complete"] for state in states):
        _check_settings(path, [state["settings"] for state in states])
        return
    stored = sum(state["videos"] for state in states)
    counted = all(state["expected"] is not None for state in states)
    expected = sum(state["expected"] for state in states) if counted else "?"
    raise FrameStoreError(
        f"frame store {path}: incomplete: {stored} of {expected} videos; run the command that builds it "
        "again (tools/frame2lmdb.py continues where it stopped)"
    )


def _check_settings(path: Path, settings: Sequence[dict[str, Any]]) -> None:
    other = next((record for record in settings if record != settings[0]), None)
    if other is not None:
        raise FrameStoreError(
            f"frame store {path}: its shards were made with different settings "
            f"({differences(settings[0], other, here='elsewhere')}); build it again with --overwrite"
        )


def _state(shard: ReadOnlyEnvironment) -> dict[str, Any] | None:
    where = f"frame store {shard.path}: its state record"
    with _damage_errors(where), shard.begin() as txn:
        try:
            state = from_json(txn.get(STATE_KEY))
            valid = state is None or state.keys() >= _STATE_FIELDS
        except (ValueError, AttributeError):  # not JSON, or not a record
            valid = False
        if not valid:
            raise FrameStoreError(f"{where} is broken; {_REMEDY}")
        return state


def _is_empty(shard: ReadOnlyEnvironment) -> bool:
    with _damage_errors(f"frame store {shard.path}"), shard.begin() as txn:
        return not txn.stat()["entries"]
