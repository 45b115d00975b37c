"""Video files to clips, or to the parts of long videos, by a pool of processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dataloaders.transforms import FrameSize
from search.clips import STORE_SETTINGS, Clip, ClipError, Part, clip_of_job, part_of_job, video_job
from search.moments.cutting import Cutting
from video.long.parts import LongVideo, PartJob, WholeJob, parts_of, run_search_job
from video.worker_pool import Fault, WorkerPool

SearchJob = WholeJob | PartJob


class Decoder:
    """Decodes `paths`. `frames` F of a clip, or of a moment; `cutting` says which videos are long."""

    def __init__(self, paths: Iterable[Path], *, frames: int, size: FrameSize, cutting: Cutting) -> None:
        self._paths = list(paths)
        self._frames = frames
        self._size = size
        self._cutting = cutting
        self._long: dict[Path, tuple[LongVideo, list[PartJob]]] = {}
        self._failed: set[Path] = set()

    def run(self, *, workers: int, timeout: float) -> Iterator[tuple[Path, Clip | Part | ClipError]]:
        """Each path with its clip, its parts, or its error: one error for all parts of a video.

        A clip, or a part of the usual length, may take `timeout` seconds.
        """
        if not self._paths:
            return

        def seconds(job: SearchJob) -> float:
            return timeout * job.share if isinstance(job, PartJob) else timeout

        jobs = [WholeJob(video_job(path), self._cutting.limit) for path in self._paths]
        with WorkerPool[SearchJob](run_search_job, workers=workers, timeout=seconds) as pool:
            for job, outcome in pool.run(jobs):
                path = job.path if isinstance(job, PartJob) else job.job.path
                if path in self._failed:
                    continue
                try:
                    if isinstance(outcome, Fault):
                        raise ClipError(outcome.reason, outcome.message)
                    if isinstance(outcome[0], LongVideo):
                        self._cut(path, outcome[0], pool)
                        continue
                    yield path, self._clip(job, *outcome)
                except ClipError as error:
                    self._failed.add(path)
                    yield path, error

    def _cut(self, path: Path, long: LongVideo, pool: WorkerPool[SearchJob]) -> None:
        distance = self._cutting.distance(self._frames)
        parts = parts_of(path, long, distance=distance, settings=STORE_SETTINGS)
        self._long[path] = long, parts
        for part in parts:
            pool.add(part)

    def _clip(self, job: SearchJob, answer: Any, jpegs: Any) -> Clip | Part:
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
