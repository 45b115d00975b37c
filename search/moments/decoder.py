"""Video files to clips, or to the parts of long videos, ahead of whoever encodes them.

Processes decode; a thread takes what they send, so that none waits while a batch is encoded; further threads
make clips of it (resizing, thumbnails).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dataloaders.transforms import FrameSize
from search.clips import STORE_SETTINGS, Clip, ClipError, Part, clip_of_job, part_of_job, video_job
from search.moments.cutting import Cutting
from video.long.parts import LongVideo, PartJob, WholeJob, parts_of, run_search_job
from video.sampling import VideoError
from video.worker_pool import Fault, Output, WorkerPool

SearchJob = WholeJob | PartJob
Result = tuple[Path, "Clip | Part | ClipError"]
_AHEAD = 2  # clips for each worker that may wait for the encoder
_THREADS = 4  # that make clips
_POLL = 0.2  # seconds
_PIECE = 300  # frames of a part at most: as pixels they take 45 MB


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
                    if not isinstance(outcome, Fault) and isinstance(outcome[0], LongVideo):
                        self._cut(_path_of(job), outcome[0], pool)
                        continue
                    for piece in self._pieces(job, outcome):
                        put(threads.submit(self._result, job, *piece))
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

    def _pieces(self, job: SearchJob, outcome: Output | Fault) -> Iterator[tuple[Output | Fault, int, int]]:
        """(result, number, how many there are): hours that one process decoded are several parts here."""
        if isinstance(job, WholeJob) or isinstance(outcome, Fault) or isinstance(outcome[0], VideoError):
            yield outcome, 0, 1
            return
        times, jpegs = outcome
        parts = self._long[job.path][1]
        if len(parts) > 1 or len(jpegs) <= _PIECE:
            yield outcome, parts.index(job), len(parts)
            return
        starts = range(0, len(jpegs), _PIECE)
        for number, start in enumerate(starts):
            piece = slice(start, start + _PIECE)
            yield (times[piece], jpegs[piece]), number, len(starts)

    def _result(self, job: SearchJob, outcome: Output | Fault, number: int, parts: int) -> Result:
        path = _path_of(job)
        try:
            if isinstance(outcome, Fault):
                raise ClipError(outcome.reason, outcome.message)
            if isinstance(job, WholeJob):
                return path, clip_of_job(*outcome, frames=self._frames, size=self._size)
            duration = self._long[path][0].seconds
            return path, part_of_job(*outcome, number=number, parts=parts, duration=duration, size=self._size)
        except ClipError as error:
            return path, error


def _path_of(job: SearchJob) -> Path:
    return job.path if isinstance(job, PartJob) else job.job.path
