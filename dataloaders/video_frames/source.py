"""Frames straight from video files: the same JPEGs that a frame store of the same settings holds.

Legend: n frames of a video (`Settings.num_frames`), of which a clip takes some.

Each process that reads has a decoder process of its own, so that a crash or an endless loop in a decoder
costs one video and not the run. Every picture passes through JPEG as on its way through a store: that is an
eighth of the time of a clip, and a run gives the same numbers from either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from dataloaders.frame_source import FramesError
from dataloaders.frame_store.jpeg import Excess, decode_jpeg
from dataloaders.video_frames.cache_check import check_cached
from dataloaders.video_frames.file_table import FileTable, VideoFile, VideoFinder
from video.decoder_process import DecoderProcess
from video.sample import Job, Settings
from video.sampling import VideoError
from video.worker_pool import Fault, Output

# Faults that cost a reader much time: it asks for such a video once. Others may pass, as of a busy disk.
_COSTLY = ("timeout", "crashed")
_OF_ONE_PROCESS = ("_finder", "_decoder", "_failed")


class Cache(Protocol):
    """Where decoded videos are kept: a `FrameCache`."""

    @property
    def path(self) -> Path: ...

    def __contains__(self, video_id: str) -> bool: ...

    def record(self, video_id: str) -> dict[str, Any] | None: ...

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes] | None: ...

    def put(self, video_id: str, jpegs: Sequence[bytes], *, record: dict[str, Any]) -> None: ...


class VideoFrames:
    """A frame source (frame_source.py) of the videos in folder `path`.

    A video may take `timeout` seconds. `clip_from_id` and `first_seconds`: see `VideoFinder`. With `cache`,
    all n frames of a video are decoded at once and kept there. Videos are found with the first question, or
    all at once with `find`; only their table is pickled. Raises `UserError` if there is no such folder.
    """

    kind = "video folder"

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        timeout: float,
        clip_from_id: bool = False,
        first_seconds: float | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.path = path
        self.settings = settings
        self.cache = cache
        self._timeout = timeout
        self._files = FileTable({})
        self._finder: VideoFinder | None = VideoFinder(
            path, clip_from_id=clip_from_id, first_seconds=first_seconds
        )
        self._decoder = DecoderProcess(timeout=timeout)
        self._failed: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_ONE_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _finder=None, _failed={})
        self._decoder = DecoderProcess(timeout=self._timeout)

    def __repr__(self) -> str:
        return f"VideoFrames({str(self.path)!r})"

    def find(self, video_ids: Iterable[str]) -> None:
        """Find these videos now; others are not looked for any more."""
        if self._finder is not None:
            self._files, self._finder = FileTable.of(video_ids, self._finder), None

    def check_cache(self, video_ids: Iterable[str]) -> None:
        """Raise `UserError` if the cache holds other files or parts under some of these ids."""
        for video_id in video_ids:
            file, record = self._file(video_id), self.manifest(video_id)
            if self.cache is not None and file is not None and record is not None:
                check_cached(video_id, record, file, folder=self.path, cache=self.cache.path)

    def close(self) -> None:
        """End the decoder process. Reading starts another."""
        self._decoder.close()

    def __contains__(self, video_id: object) -> bool:
        if not isinstance(video_id, str):
            return False
        return self._file(video_id) is not None or (self.cache is not None and video_id in self.cache)

    def missing(self, video_ids: Iterable[str]) -> list[str]:
        return [video_id for video_id in dict.fromkeys(video_ids) if video_id not in self]

    def num_frames(self, video_id: str) -> int:
        return self.settings.num_frames if video_id in self else 0

    def manifest(self, video_id: str) -> dict[str, Any] | None:
        """The record of a cached video: without decoding, nothing is known of the others."""
        return None if self.cache is None else self.cache.record(video_id)

    def iter_frames(
        self, video_id: str, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        for position, jpeg in enumerate(self.read_jpegs(video_id, indices)):
            try:
                yield decode_jpeg(jpeg, None if excess is None else excess[position])
            except UserError as error:
                raise FramesError(f"{self._name(video_id)}, frame {indices[position]}: {error}") from None

    def read_frames(self, video_id: str, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        return list(self.iter_frames(video_id, indices))

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes]:
        """From the cache, or decoded now. Raises `FramesError` for a number below 0, or n and more."""
        chosen = [int(index) for index in indices]
        if not all(0 <= index < self.settings.num_frames for index in chosen):
            raise FramesError(f"{self._name(video_id)}: has the frames 0 to {self.settings.num_frames - 1}")
        cached = None if self.cache is None else self.cache.read_jpegs(video_id, chosen)
        if cached is not None:
            return cached
        if self.cache is None:
            return list(self._decode(video_id, only=tuple(chosen))[1])
        record, jpegs = self._decode(video_id, only=None)
        self.cache.put(video_id, jpegs, record=record)
        return [jpegs[index] for index in chosen]

    def undecodable(self, video_ids: Iterable[str], *, workers: int) -> dict[str, str]:
        """Those of `video_ids` whose files do not open or whose first frames do not decode, with the reason.

        `workers` processes look at them, at least one. Cached videos are not looked at. A fault further on is
        not found.
        """
        jobs = []
        for video_id in video_ids:
            file = self._file(video_id)
            if file is not None and (self.cache is None or video_id not in self.cache):
                jobs.append(self._job(video_id, file, only=None))
        number, ended = min(max(workers, 1), len(jobs)), Event()
        faults: dict[str, str] = {}
        with ThreadPoolExecutor(max(number, 1)) as threads:
            shares = [threads.submit(self._try, jobs[i::number], ended) for i in range(number)]
            try:
                for share in shares:
                    faults |= share.result()
            finally:  # an interrupt ends the threads too
                ended.set()
        return faults

    def _try(self, jobs: Sequence[Job], ended: Event) -> dict[str, str]:
        """The faults of some jobs, until `ended`. In a thread, with a decoder process of its own."""
        decoder = DecoderProcess(timeout=self._timeout)
        faults = {}
        for job in jobs:
            if ended.is_set():
                break
            reason = _reason(decoder.try_out(job))
            if reason is not None:
                faults[job.video_id] = reason
        decoder.close()
        return faults

    def _file(self, video_id: str) -> VideoFile | None:
        return self._files.get(video_id) if self._finder is None else self._finder.find(video_id)

    def _job(self, video_id: str, file: VideoFile, *, only: tuple[int, ...] | None) -> Job:
        return Job(video_id, self.path / file.name, file.window, self.settings, file.own_file, only)

    def _decode(self, video_id: str, *, only: tuple[int, ...] | None) -> Output:
        if video_id in self._failed:
            raise FramesError(self._failed[video_id])
        file = self._file(video_id)
        if file is None:
            raise FramesError(f"{self._name(video_id)}: no such file")
        outcome = self._decoder.run(self._job(video_id, file, only=only))
        reason = _reason(outcome)
        if reason is None:
            assert not isinstance(outcome, Fault)
            return outcome
        message = f"{self._name(video_id)} ({file.name}): {reason}"
        if isinstance(outcome, Fault) and outcome.reason in _COSTLY:
            self._failed[video_id] = message
        raise FramesError(message)

    def _name(self, video_id: str) -> str:
        return f"{self.kind} {self.path}: video {video_id!r}"


def _reason(outcome: Output | Fault) -> str | None:
    """Why there is no result; None if there is one."""
    if isinstance(outcome, Fault):
        return f"{outcome.reason}: {outcome.message}"
    if isinstance(outcome[0], VideoError):
        return f"{outcome[0].reason}: {outcome[0].message}"
    return None
