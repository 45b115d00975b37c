"""The layout of a frame store: keys, the state record, shard folders. Shared by reader, writer and tools.

One LMDB environment, all in its main database:

    {video_id}_{i}          JPEG of stored frame i = 0..n-1: the published layout, readable by published code
    \\0video/{video_id}      manifest of one video, JSON: what was stored and where it came from
    \\0store                 state of the store, JSON: complete or not, counts, settings

The last two keys begin with a NUL byte, which no video id may contain, so they cannot clash with a frame key.
Code that reads only the published layout never asks for them.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

from common.errors import EXIT_STOPPED, UserError, file_errors
from dataloaders.frame_source import FramesError

MAX_KEY_BYTES = 511  # LMDB's limit on the length of a key, a compile-time constant
STATE_KEY = b"\0store"
VIDEO_PREFIX = b"\0video/"
LOCK_FILE = "writing.lock"
METADATA_FILE = "metadata.json"
DATA_FILE = "data.mdb"
FAILURES_FILE = "failures.jsonl"  # the videos that could not be stored, and why
_LARGEST_FRAME_NUMBER = 99_999
_SHARD_NAME = re.compile(r"shard-(\d+)-of-(\d+)")


class FrameStoreError(FramesError):
    """A frame store or a frame in it cannot be used. The message names store, video and frame."""


class FrameStoreWriteError(FrameStoreError):
    """Writing stopped: full disk or no address space. What was committed is kept."""

    @property
    def exit_code(self) -> int:
        return EXIT_STOPPED


def frame_key(video_id: str, index: int) -> bytes:
    """The published key of stored frame `index` of a video."""
    return f"{video_id}_{index}".encode()


def video_key(video_id: str) -> bytes:
    """The key of a video's manifest record."""
    return VIDEO_PREFIX + video_id.encode()


def check_video_id(video_id: str) -> None:
    """Raise `UserError` if a video id cannot be a key: empty, with NUL, not UTF-8, or too long."""
    if not video_id or "\0" in video_id:
        raise UserError(f"video id {video_id!r} is empty or contains a NUL character")
    try:
        longest = max(len(frame_key(video_id, _LARGEST_FRAME_NUMBER)), len(video_key(video_id)))
    except UnicodeEncodeError as error:
        raise UserError(f"video id {video_id!r} cannot be written as UTF-8") from error
    if longest > MAX_KEY_BYTES:
        limit = MAX_KEY_BYTES - len(video_key(""))
        raise UserError(f"video id {video_id[:40]!r}... is longer than {limit} bytes, LMDB's limit")


def to_json(record: dict[str, Any]) -> bytes:
    """The bytes of a manifest or state record. Equal records give equal bytes."""
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def from_json(data: bytes | memoryview | None) -> dict[str, Any] | None:
    """The record that `to_json` wrote; None for None."""
    return None if data is None else json.loads(bytes(data))


def differences(old: dict[str, Any], new: dict[str, Any], *, here: str = "now") -> str:
    """Which settings differ between `old` and `new`, in words."""
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(f"{name} {old.get(name)!r} there, {new.get(name)!r} {here}" for name in names)


def shard_name(index: int, count: int) -> str:
    """Folder of shard `index` (from 0) of `count` inside the store's folder."""
    return f"shard-{index:05d}-of-{count:05d}"


def shard_of(video_id: str, count: int) -> int:
    """The shard of a video. It depends on the id alone, not on the order of a list.

    An id that is not UTF-8 also has a shard: the one that reports it as a bad id.
    """
    return zlib.crc32(video_id.encode("utf-8", "surrogatepass")) % count


def find_shards(path: Path) -> list[Path]:
    """The LMDB environments of the store at `path`, in shard order; one for a store without shards.

    Raises `FrameStoreError` if there is no store, a shard is absent, or shards of different counts are mixed.
    """
    if path.is_file() or (path / DATA_FILE).is_file():
        return [path]
    if not path.is_dir():
        raise FrameStoreError(f"frame store {path}: no such folder or file; tools/frame2lmdb.py makes stores")
    with file_errors(path):
        matches = [_SHARD_NAME.fullmatch(entry.name) for entry in path.iterdir()]
    counts = {int(match[2]) for match in matches if match is not None}
    if not counts:
        raise FrameStoreError(f"frame store {path}: the folder has neither {DATA_FILE} nor shards")
    if len(counts) > 1:
        raise FrameStoreError(f"frame store {path}: shards of different counts are mixed: {sorted(counts)}")
    count = counts.pop()
    shards = [path / shard_name(index, count) for index in range(count)]
    absent = [shard.name for shard in shards if not (shard / DATA_FILE).is_file()]
    if absent:
        names = ", ".join(absent[:5])
        raise FrameStoreError(
            f"frame store {path}: incomplete: {len(absent)} of {count} shards absent ({names})"
        )
    return shards
