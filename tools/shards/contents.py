"""What goes into shards: the samples of a split, from a frame store or from video files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, file_errors
from common.languages import LANGUAGES
from dataloaders.examples import Examples
from dataloaders.frame_sampling import frames_within
from dataloaders.frame_source import FramesError
from dataloaders.frame_store.reader import FrameStore
from dataloaders.tar_shards.raw_samples import VIDEO_SUFFIXES
from dataloaders.video_frames.file_table import FileTable

Files = Iterator[tuple[str, bytes]]


class Contents(Protocol):
    """Where the pictures of a video come from. Pickled for each process."""

    def files(self, video_id: str) -> Files:
        """(suffix, data) of the files of a video. Raises `UserError` where it cannot be read."""
        ...

    def size(self, video_id: str) -> int:
        """About how many bytes its files have."""
        ...


@dataclass
class StoredFrames:
    """The stored frames of a video, as `000.jpg`, `001.jpg`, ...; with `first_seconds` no later ones."""

    store: FrameStore
    first_seconds: float | None = None

    def _count(self, video_id: str) -> int:
        stored = self.store.num_frames(video_id)
        if self.first_seconds is None or not stored:
            return stored
        return frames_within(self.store.manifest(video_id), stored, self.first_seconds)

    def files(self, video_id: str) -> Files:
        count = self._count(video_id)
        if not count:
            raise FramesError(f"{self.store.path}: has no video {video_id}")
        for number, jpeg in enumerate(self.store.read_jpegs(video_id, range(count))):
            yield f"{number:03}.jpg", jpeg

    def size(self, video_id: str) -> int:
        record = self.store.manifest(video_id) or {}
        size = record.get("bytes")
        if isinstance(size, int) and self.first_seconds is None:
            return size
        return sum(map(len, self.store.read_jpegs(video_id, range(self._count(video_id)))))


@dataclass
class VideoFiles:
    """The file of a video as it is, as `mp4` or whatever it is."""

    folder: Path
    table: FileTable

    def _path(self, video_id: str) -> Path:
        file = self.table.get(video_id)
        if file is None:
            raise UserError(f"{self.folder}: has no video {video_id}")
        if not file.window.is_whole_video:
            raise UserError(f"{video_id}: is a part of {file.name}; store its frames (tools/frame2lmdb.py)")
        path = self.folder / file.name
        if path.suffix[1:].lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{path}: shards hold videos as {', '.join(VIDEO_SUFFIXES)}")
        return path

    def files(self, video_id: str) -> Files:
        path = self._path(video_id)
        with file_errors(path):
            yield path.suffix[1:].lower(), path.read_bytes()

    def size(self, video_id: str) -> int:
        with file_errors(self.folder):
            return self._path(video_id).stat().st_size


class SplitTexts:
    """The texts of each video of a split, as `json` of its sample."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self._order = np.argsort(examples.video_of_caption, kind="stable")
        counts = np.bincount(examples.video_of_caption, minlength=examples.num_videos)
        self._ends = np.cumsum(counts)

    def record(self, video: int) -> dict[str, Any]:
        """What the `json` of a sample holds."""
        captions = self._order[self._ends[video - 1] if video else 0 : self._ends[video]].tolist()
        record: dict[str, Any] = {"id": self.examples.video_ids[video]}
        record["captions"] = self._by_language(self.examples.captions, captions)
        if self.examples.tags is not None:
            # CHVTT repeats them with each title.
            tags = self._by_language(self.examples.tags, captions)
            is_list = isinstance(tags, list)
            record["tags"] = tags[0] if is_list else {name: texts[0] for name, texts in tags.items()}
        durations = self.examples.durations
        if durations is not None and not np.isnan(durations[video]):
            record["duration"] = round(float(durations[video]), 3)
        return record

    def digest(self) -> str:
        """A hash of all records."""
        digest = hashlib.sha256()
        for video in range(self.examples.num_videos):
            digest.update(json.dumps(self.record(video), sort_keys=True).encode())
        return digest.hexdigest()

    def _by_language(self, texts: Sequence[str] | Any, captions: list[int]) -> Any:
        languages = self.examples.languages
        if languages is None:
            return [texts[caption] for caption in captions]
        found: dict[str, list[str]] = {}
        for caption in captions:
            found.setdefault(LANGUAGES[int(languages[caption])], []).append(texts[caption])
        return found


def video_order(videos: int, seed: int) -> NDArray[np.int64]:
    """The order of the videos in the shards. Training shuffles within parts of it, so it is shuffled here."""
    return np.random.default_rng(seed).permutation(videos).astype(np.int64)


def shard_ends(
    sizes: Sequence[int] | None, videos: int, *, samples: int, most_bytes: int | None
) -> list[int]:
    """Where each shard ends: after `samples` videos, or before more than `most_bytes`, if sizes are known."""
    if sizes is None or most_bytes is None:
        return [min(end, videos) for end in range(samples, videos + samples, samples)]
    ends, begin, total = [], 0, 0
    for place, size in enumerate(sizes):
        if place > begin and (place - begin == samples or total + size > most_bytes):
            ends.append(place)
            begin, total = place, 0
        total += size
    return [*ends, videos]
