"""Index the videos of a source: new and changed ones are encoded and committed in small batches.

The next run continues after the last committed batch. D joint width, F frames, S pixels a side.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from common.atomic_files import write_text
from common.errors import UserError
from search.clips import Clip, ClipError
from search.engines import check_engine
from search.index_format import (
    FAILURES_FILE,
    SETTINGS_FILE,
    THUMBNAILS,
    IndexSettings,
    VideoIndexError,
    VideoRecord,
    read_settings,
)
from search.index_writer import Entry, IndexWriter
from search.retriever import Retriever
from search.sources import Source, SourceVideo, StoreSource, open_source, record_of
from video.video_files import describe_left_out


@dataclass
class IndexReport:
    """Counts of videos of an indexing run. `failed` by reason; `failures`: (id, reason, message) each.

    `left_out`: files of the folder that are no videos, by extension or reason.
    """

    listed: int = 0
    unchanged: int = 0
    added: int = 0
    updated: int = 0
    moved: int = 0
    removed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str, str]] = field(default_factory=list)

    def fail(self, video_id: str, reason: str, message: str) -> None:
        self.failed[reason] += 1
        self.failures.append((video_id, reason, message))

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "updated": self.updated,
            "unchanged": self.unchanged + self.moved,
            "removed": self.removed,
        }
        text = f"{self.listed} videos found: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        if self.left_out:
            text = f"{text.removesuffix(': ')}; left out: {describe_left_out(self.left_out)}"
        if self.failed:
            text += "; failed: " + ", ".join(f"{n} {reason}" for reason, n in self.failed.most_common())
        return text.removesuffix(": ")


def index_videos(
    retriever: Retriever,
    index: str | os.PathLike[str],
    *,
    video_dir: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    prune: bool = False,
    workers: int = 1,
    timeout: float = 300.0,
    batch: int = 8,
    thumbnails: str | None = None,
    engine: str | None = None,
    engine_options: dict[str, object] | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> IndexReport:
    """Bring `index` up to date with a folder of videos, or a frame store (then `video_dir` has their files).

    `prune` removes videos that the source no longer has; without it they stay and are shown as missing.
    `workers` processes decode, `batch` clips are encoded at once. `stop()` is asked between videos.
    None keeps the setting of the index. Raises `UserError` if it cannot start and `FileError` if the disk is
    full; what was committed is kept.
    """
    index = Path(index)
    source = open_source(video_dir, store, workers=workers, timeout=timeout)
    if thumbnails not in (None, *THUMBNAILS):
        raise UserError(f"--thumbnails {thumbnails}: choose from {', '.join(THUMBNAILS)}")
    settings = _settings(retriever, index, thumbnails, engine, engine_options)
    with IndexWriter(index, settings) as writer:
        run = _Run(retriever, source, writer, batch=batch, quiet=quiet, stop=stop)
        report = run.run(prune=prune)
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
) -> IndexSettings:
    held = read_settings(index) if (index / SETTINGS_FILE).exists() else None
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
        thumbnails=thumbnails or (held.thumbnails if held else "all"),
        engine=engine,
        engine_options=options,
    )


class _Run:
    """One pass over a source."""

    def __init__(
        self,
        retriever: Retriever,
        source: Source,
        writer: IndexWriter,
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
        self._report = IndexReport()

    def run(self, *, prune: bool) -> IndexReport:
        listed = self._source.list()
        self._report.listed = len(listed)
        self._report.left_out = self._source.left_out
        for start, message in self._source.unread:
            self._report.fail(start or ".", "unreadable folder", message)
        wanted = [video for video in self._progress(listed, "looking for changes") if self._is_wanted(video)]
        for batch in self._batches(wanted):
            self._add(batch)
        if prune and not self._stop():
            self._prune({video.video_id for video in listed})
        return self._report

    def _progress(self, items: list[SourceVideo], what: str) -> tqdm:
        # If stderr is not a terminal, every update of the bar is a separate line, so updates are rare.
        every = 0.5 if sys.stderr.isatty() else 30.0
        return tqdm(items, desc=what, unit="video", disable=self._quiet, mininterval=every)

    def _is_wanted(self, video: SourceVideo) -> bool:
        """Whether a video has to be encoded. If only its path or time changed, its record is updated."""
        if self._stop():
            return False
        try:
            video.video_id.encode()
        except UnicodeEncodeError:
            name = os.fsencode(video.video_id).decode("utf-8", "replace")
            self._report.fail(name, "bad name", "the name of the file is not UTF-8")
            return False
        held = self._writer.catalog.find(video.video_id)
        if held is None:
            return True
        record = held[1]
        if record.source != self._source.name and record.has_file:
            message = f"the index has a video of this id from {record.source}"
            self._report.fail(video.video_id, "same id", message)
            return False
        path = str(video.path) if video.path is not None else None
        in_store = isinstance(self._source, StoreSource)
        file_unchanged = (record.size, record.mtime_ns, record.path) == (video.size, video.mtime_ns, path)
        if file_unchanged and not in_store:
            self._report.unchanged += 1
            return False
        try:
            digest = self._source.digest(video)
        except ClipError as error:
            self._report.fail(video.video_id, error.reason, error.message)
            return False
        if digest != record.digest:
            return True
        self._report.moved += 1
        if not file_unchanged:
            self._writer.update_file(record_of(self._source, video, digest=digest))
        return False

    def _batches(self, wanted: list[SourceVideo]) -> Iterator[list[tuple[SourceVideo, Clip]]]:
        batch: list[tuple[SourceVideo, Clip]] = []
        retriever = self._retriever
        bar = self._progress(wanted, "indexing")
        clips = self._source.clips(wanted, frames=retriever.frames, size=retriever.image_size)
        for video, clip in clips:
            bar.update()
            if isinstance(clip, ClipError):
                self._report.fail(video.video_id, clip.reason, clip.message)
            else:
                batch.append((video, clip))
            if len(batch) == self._batch:
                yield batch
                batch = []
            if self._stop():
                break
        if batch:
            yield batch
        bar.close()

    def _add(self, batch: list[tuple[SourceVideo, Clip]]) -> None:
        embeds, frames = self._retriever.encode_clips(torch.stack([clip.frames for _, clip in batch]))
        entries = []
        for place, (video, clip) in enumerate(batch):
            held = self._writer.catalog.find(video.video_id)
            try:
                digest = self._source.digest(video)
            except ClipError as error:
                self._report.fail(video.video_id, error.reason, error.message)
                continue
            record = record_of(self._source, video, digest=digest, clip=clip)
            jpegs = clip.thumbnails(self._writer.settings.thumbnails)
            entries.append(Entry(record, embeds[place], frames[place], jpegs))
            self._report.updated += held is not None
            self._report.added += held is None
        self._writer.add(entries)

    def _prune(self, listed: set[str]) -> None:
        absent = [
            record.video_id
            for _, record in self._writer.catalog.records()
            if record.source == self._source.name
            and record.video_id not in listed
            and not self._is_hidden(record)
        ]
        self._report.removed = self._writer.remove(absent)

    def _is_hidden(self, record: VideoRecord) -> bool:
        """Whether a video is in a folder that could not be read: it may still exist."""
        return any(record.video_id.startswith(start) for start, _ in self._source.unread)


def remove_videos(index: Path, video_ids: list[str]) -> int:
    """Remove videos from an index; returns how many. Raises `VideoIndexError` for unknown ids."""
    with IndexWriter(index) as writer:
        absent = [video_id for video_id in video_ids if writer.catalog.find(video_id) is None]
        if absent:
            names = ", ".join(map(repr, absent[:5]))
            raise VideoIndexError(f"{index}: no such video in the index: {names}")
        removed = writer.remove(video_ids)
        writer.finish()
    return removed


def _write_failures(path: Path, report: IndexReport) -> None:
    if not report.failures:
        path.unlink(missing_ok=True)
        return
    lines = [
        json.dumps({"video_id": video_id, "reason": reason, "message": message}) + "\n"
        for video_id, reason, message in report.failures
    ]
    write_text(path, "".join(lines))
