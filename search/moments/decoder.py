"""Video files to clips, or to the parts of long videos, ahead of whoever encodes them.

Processes decode; a thread takes what they send, so that none waits while a batch is encoded; further threads
make clips of it (resizing, thumbnails).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dataloaders.transforms import FrameSize
from search.clips import STORE_SETTINGS, Clip, ClipError, Part, clip_of_job, part_of_job, video_job
from search.moments.cutting import Cutting
from video.long.parts import LongVideo, PartJob, WholeJob, parts_of, run_search_job
from video.worker_pool import Fault, Output, WorkerPool

SearchJob = WholeJob | PartJob
Result = tuple[Path, "Clip | Part | ClipError"]
_AHEAD = 2  # clips for each worker that may wait for the encoder
_THREADS = 4  # that make clips
_POLL = 0.2  # seconds


class Decoder:
    """Decodes `paths`. `frames` F of a clip, or of a moment; `cutting` says which videos are long."""

    def __init__(self, paths: Iterable[Path], *, frames: int, size: FrameSize, cutting: Cutting) -> None:
        self._paths = list(paths)
        self._frames = frames
        self._size = size
        self._cutting = cutting
        self._long: dict[Path, tuple[LongVideo, list[PartJob]]] = {}

    def run(self, *, workers: int, timeout: float) -> Iterator[Result]:
        """Each path with its clip, its parts, or its error: one error for all parts of a video.

        A clip, or a part of the usual length, may take `timeout` seconds.
        """
        if not self._paths:
            return

        def seconds(job: SearchJob) -> float:
            return timeout * job.share if isinstance(job, PartJob) else timeout

        failed: set[Path] = set()
        workers = min(workers, len(self._paths)) if not self._cutting.above else workers
        with WorkerPool[SearchJob](run_search_job, workers=workers, timeout=seconds) as pool:
            for path, clip in self._ahead(pool, size=_AHEAD * workers):
                if path in failed:
                    continue
                if isinstance(clip, ClipError):
                    failed.add(path)
                yield path, clip

    def _ahead(self, pool: WorkerPool[SearchJob], *, size: int) -> Iterator[Result]:
        """The clips of the pool's results, made by threads up to `size` ahead."""
        ready: queue.Queue[Future[Result] | BaseException | None] = queue.Queue(size)
        ended = threading.Event()

        def put(item: Future[Result] | BaseException | None) -> None:
            while not ended.is_set():
                try:
                    return ready.put(item, timeout=_POLL)
                except queue.Full:
                    continue

        def read() -> None:
            try:
                jobs = [WholeJob(video_job(path), self._cutting.limit) for path in self._paths]
                for job, outcome in pool.run(jobs, stop=ended.is_set):
                    if isinstance(outcome, Fault) or not isinstance(outcome[0], LongVideo):
                        put(threads.submit(self._result, job, outcome))
                    else:
                        self._cut(_path_of(job), outcome[0], pool)
                put(None)
            except BaseException as error:  # raised again where the clips are taken
                put(error)

        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="clips") as threads:
            reader = threading.Thread(target=read, name="decoded", daemon=True)
            reader.start()
            try:
                while (item := ready.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    yield item.result()
            finally:
                ended.set()
                reader.join()

    def _cut(self, path: Path, long: LongVideo, pool: WorkerPool[SearchJob]) -> None:
        distance = self._cutting.distance(self._frames)
        parts = parts_of(path, long, distance=distance, settings=STORE_SETTINGS)
        self._long[path] = long, parts
        for part in parts:
            pool.add(part)

    def _result(self, job: SearchJob, outcome: Output | Fault) -> Result:
        try:
            if isinstance(outcome, Fault):
                raise ClipError(outcome.reason, outcome.message)
            return _path_of(job), self._clip(job, *outcome)
        except ClipError as error:
            return _path_of(job), error

    def _clip(self, job: SearchJob, answer: Any, jpegs: Sequence[bytes]) -> Clip | Part:
        if isinstance(job, WholeJob):
            return clip_of_job(answer, jpegs, frames=self._frames, size=self._size)
        long, parts = self._long[job.path]
        return part_of_job(
            answer,
            jpegs,
            number=parts.index(job),
            parts=len(parts),
            duration=long.seconds,
            size=self._size,
        )


def _path_of(job: SearchJob) -> Path:
    return job.path if isinstance(job, PartJob) else job.job.path
