"""Index the videos of a source: new and changed ones are encoded and committed in small batches.

The next run continues after the last committed batch. D joint width, F frames, S pixels a side.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from common.atomic_files import write_text
from common.errors import UserError
from search.changes import Changes, IndexReport, Task
from search.clips import Clip, ClipError, Part
from search.engines import check_engine
from search.index_format import (
    FAILURES_FILE,
    SETTINGS_FILE,
    THUMBNAILS,
    IndexSettings,
    VideoIndexError,
    read_settings,
)
from search.index_writer import Entry, IndexWriter
from search.moments.collecting import MomentCollector
from search.moments.cutting import Cutting
from search.retriever import Retriever
from search.sources import Paths, Source, SourceVideo, open_sources, record_of

_COPIES_AT_ONCE = 256


def index_videos(
    retriever: Retriever,
    index: str | os.PathLike[str],
    *,
    video_dir: Paths | None = None,
    store: str | os.PathLike[str] | None = None,
    prune: bool = False,
    workers: int = 1,
    timeout: float = 300.0,
    batch: int = 8,
    thumbnails: str | None = None,
    engine: str | None = None,
    engine_options: dict[str, object] | None = None,
    every: float | None = None,
    cut_above: float | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> IndexReport:
    """Bring `index` up to date with folders of videos, or a frame store (then `video_dir` has their files).

    Videos that have the id of one from another folder get the name of their folder before it.
    `prune` removes videos that the source no longer has; without it they stay and are shown as missing.
    `workers` processes decode, `batch` clips are encoded at once. Videos of more than `cut_above` seconds are
    cut into moments of at most `every` seconds. `stop()` is asked between videos.
    None keeps the setting of the index. Raises `UserError` if it cannot start and `FileError` if the disk is
    full; what was committed is kept.
    """
    index = Path(index)
    sources = open_sources(video_dir, store, workers=workers, timeout=timeout)
    if thumbnails not in (None, *THUMBNAILS):
        raise UserError(f"--thumbnails {thumbnails}: choose from {', '.join(THUMBNAILS)}")
    settings = _settings(retriever, index, thumbnails, engine, engine_options, every, cut_above)
    with IndexWriter(index, settings) as writer:
        report = IndexReport()
        for source in sources:
            run = _Run(retriever, source, writer, report, batch=batch, quiet=quiet, stop=stop)
            run.run(prune=prune)
        _write_failures(index / FAILURES_FILE, report)
        if not stop():
            writer.finish()
    return report


def _settings(
    retriever: Retriever,
    index: Path,
    thumbnails: str | None,
    engine: str | None,
    engine_options: dict[str, object] | None,
    every: float | None,
    cut_above: float | None,
) -> IndexSettings:
    held = read_settings(index) if (index / SETTINGS_FILE).exists() else None
    cutting = _cutting(held, every, cut_above)
    options = held.engine_options if held and engine_options is None else engine_options
    engine = engine or (held.engine if held else "faiss")
    for name, flag, owner in (("url", "--url", "qdrant"), ("kind", "--index_kind", "faiss")):
        if name in (engine_options or {}) and engine != owner:
            raise UserError(f"{flag} is for --engine {owner}; the engine is {engine}")
    check_engine(engine, options or {})
    return IndexSettings(
        model=retriever.identity,
        width=retriever.width,
        frames=retriever.frames,
        lengths=not retriever.head.is_of_cosines,
        thumbnails=thumbnails or (held.thumbnails if held else "all"),
        engine=engine,
        engine_options=options,
        every=cutting.every,
        cut_above=cutting.above,
    )


def _cutting(
    held: IndexSettings | None, every: float | None = None, cut_above: float | None = None
) -> Cutting:
    """How long videos are cut: as given, else as the index says, else by default."""
    usual = Cutting()
    if held is not None and held.every is not None and held.cut_above is not None:
        usual = Cutting(held.every, held.cut_above)
    return Cutting(usual.every if every is None else every, usual.above if cut_above is None else cut_above)


class _Run:
    """One pass over a source."""

    def __init__(
        self,
        retriever: Retriever,
        source: Source,
        writer: IndexWriter,
        report: IndexReport,
        *,
        batch: int,
        quiet: bool,
        stop: Callable[[], bool],
    ) -> None:
        self._retriever = retriever
        self._source = source
        self._writer = writer
        self._batch = batch
        self._quiet = quiet
        self._stop = stop
        self._report = report
        settings = writer.settings
        self._cutting = _cutting(settings)
        self._collector = MomentCollector(
            retriever, self._cutting, thumbnails=settings.thumbnails, lengths=settings.lengths
        )

    def run(self, *, prune: bool) -> None:
        listed = self._source.list()
        self._report.listed += len(listed)
        self._report.left_out.update(self._source.left_out)
        for start, message in self._source.unread:
            self._report.fail(start or ".", "unreadable folder", message)
        self._changes = Changes(self._writer, self._source, listed, self._report)
        tasks = []
        for video in self._progress(listed, "looking for changes"):
            task = None if self._stop() else self._changes.look(video)
            if task is not None:
                tasks.append(task)
        rest = self._copy(tasks)
        first = {task.digest or task: task for task in reversed(rest)}  # of equal contents the first one
        encoded = [task for task in rest if first[task.digest or task] is task]
        self._encode(encoded)
        # The copies of a video that could not be encoded fail as it did.
        self._encode(self._copy([task for task in rest if first[task.digest or task] is not task]))
        if prune and not self._stop():
            self._report.removed += self._writer.remove(self._changes.absent())

    def _progress(self, items: list[SourceVideo], what: str) -> tqdm:
        # If stderr is not a terminal, every update of the bar is a separate line, so updates are rare.
        every = 0.5 if sys.stderr.isatty() else 30.0
        return tqdm(items, desc=what, unit="video", disable=self._quiet, mininterval=every)

    def _copy(self, tasks: list[Task]) -> list[Task]:
        """Add the videos whose contents the index has, without encoding them; returns the other tasks."""
        rest = []
        self._changes.start_copying()
        for start in range(0, len(tasks), _COPIES_AT_ONCE):
            if self._stop():
                break
            copies = []
            for task in tasks[start : start + _COPIES_AT_ONCE]:
                copy = self._changes.copy_for(task)
                if copy is None:
                    rest.append(task)
                    continue
                copies.append(copy)
                self._report.updated += task.video_id is not None
                self._report.moved += copy.replaces is not None
                self._report.copied += task.video_id is None and copy.replaces is None
            self._writer.copy(copies)
        return rest

    def _encode(self, tasks: list[Task]) -> None:
        if not tasks:
            return  # no bar of nothing
        for batch in self._batches(tasks):
            self._add(batch)

    def _batches(self, tasks: list[Task]) -> Iterator[list[tuple[Task, Clip]]]:
        batch: list[tuple[Task, Clip]] = []
        retriever = self._retriever
        by_name = {task.video.name: task for task in tasks}
        videos = [task.video for task in tasks]
        bar = self._progress(videos, "indexing")
        clips = self._source.clips(
            videos, frames=retriever.frames, size=retriever.image_size, cutting=self._cutting
        )
        for video, clip in clips:
            if isinstance(clip, Part):
                bar.update(self._add_part(by_name[video.name], clip))
            else:
                bar.update()
            if isinstance(clip, ClipError):
                self._collector.drop(video.name)
                self._report.fail(video.name, clip.reason, clip.message)
            elif isinstance(clip, Clip):
                batch.append((by_name[video.name], clip))
            if len(batch) == self._batch:
                yield batch
                batch = []
            if self._stop():
                break
        if batch:
            yield batch
        bar.close()

    def _add_part(self, task: Task, part: Part) -> bool:
        """Encode a part of a long video; its last one adds the video. Returns whether the video is done."""
        try:
            moments = self._collector.add(task.video.name, part)
        except ClipError as error:
            self._report.fail(task.video.name, error.reason, error.message)
            return True
        if moments is None:
            return False
        digest = self._changes.digest(task.video)
        if digest is not None:
            video_id = self._changes.id_for(task)
            record = record_of(self._source, task.video, video_id=video_id, digest=digest)
            self._writer.add_moments(replace(record, duration=round(part.duration, 3)), moments)
            self._report.updated += task.video_id is not None
            self._report.added += task.video_id is None
            self._report.moments += len(moments.spans)
        return True

    def _add(self, batch: list[tuple[Task, Clip]]) -> None:
        clips = torch.stack([clip.frames for _, clip in batch])
        embeds, frames, lengths = self._retriever.encode_with_lengths(clips)
        with_lengths = self._writer.settings.lengths
        entries = []
        for place, (task, clip) in enumerate(batch):
            digest = self._changes.digest(task.video)
            if digest is None:
                continue
            video_id = self._changes.id_for(task)
            record = record_of(self._source, task.video, video_id=video_id, digest=digest, clip=clip)
            jpegs = clip.thumbnails(self._writer.settings.thumbnails)
            kept = lengths[place] if with_lengths else None
            entries.append(Entry(record, embeds[place], frames[place], jpegs, kept))
            self._report.updated += task.video_id is not None
            self._report.added += task.video_id is None
        self._writer.add(entries)


def remove_videos(index: Path, video_ids: list[str]) -> int:
    """Remove videos from an index, which leaves them out from now on; returns how many.

    Raises `VideoIndexError` for unknown ids.
    """
    with IndexWriter(index) as writer:
        absent = [video_id for video_id in video_ids if writer.catalog.find(video_id) is None]
        if absent:
            names = ", ".join(map(repr, absent[:5]))
            raise VideoIndexError(f"{index}: no such video in the index: {names}")
        removed = writer.remove(video_ids, remember=True)
        writer.finish()
    return removed


def restore_videos(index: Path, video_ids: list[str]) -> int:
    """Undo `remove_videos`, for all videos if no id is given: the next indexing takes them. Returns how many.

    Raises `VideoIndexError` for ids that were not removed.
    """
    with IndexWriter(index) as writer:
        entries = writer.catalog.taken_out()
        absent = sorted(set(video_ids) - {entry.video_id for entry in entries})
        if absent:
            names = ", ".join(map(repr, absent[:5]))
            raise VideoIndexError(f"{index}: not removed before: {names}")
        wanted = [entry for entry in entries if not video_ids or entry.video_id in video_ids]
        with writer.catalog.transaction():
            writer.catalog.forget(wanted)
    return len(wanted)


def _write_failures(path: Path, report: IndexReport) -> None:
    if not report.failures:
        path.unlink(missing_ok=True)
        return
    lines = [
        json.dumps({"video_id": video_id, "reason": reason, "message": message}) + "\n"
        for video_id, reason, message in report.failures
    ]
    write_text(path, "".join(lines))
