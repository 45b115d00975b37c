"""What has to be done with each video of a source: nothing, encode it, or take the features of another one.

A video is known by its source and its id there. Contents are compared by SHA-256, which is computed only
where a size occurs twice or a known file changed.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from search.catalog import Catalog, TakenOut
from search.clips import ClipError
from search.index_format import VideoRecord
from search.index_writer import Copy, IndexWriter
from search.sources import Source, SourceVideo, StoreSource, record_of
from video.video_files import describe_left_out


@dataclass
class IndexReport:
    """Counts of videos of an indexing run. `failed` by reason; `failures`: (id, reason, message) each.

    `moments`: of the long videos that were added. `moved`: renamed or moved, not encoded again. `copied`:
    exact copies of others, not encoded. `taken_out`: left out because a user removed them. `left_out`: files
    that are no videos, by extension or reason.
    """

    listed: int = 0
    unchanged: int = 0
    added: int = 0
    updated: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    moments: int = 0
    taken_out: int = 0
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
            "moved or renamed": self.moved,
            "copies of others": self.copied,
            "unchanged": self.unchanged,
            "removed": self.removed,
            "taken out before (search.py restore)": self.taken_out,
        }
        found = f"{self.listed:,} video{'' if self.listed == 1 else 's'} found"
        done = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
        parts = [f"{found}: {done}" if done else found]
        if self.moments:
            parts.append(f"long ones cut into {self.moments:,} moments")
        if self.left_out:
            parts.append(f"left out: {describe_left_out(self.left_out)}")
        if self.failed:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in self.failed.most_common())
            parts.append(f"failed: {reasons}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Task:
    """A video to add or update. `video_id` is None for a new one, `digest` where it is not yet known."""

    video: SourceVideo
    video_id: str | None
    digest: str | None


@dataclass(frozen=True)
class _Same:
    """(row, record) of videos with the same contents: one to copy from, and those that are gone."""

    first: tuple[int, VideoRecord]
    gone: deque[tuple[int, VideoRecord]]


class Changes:
    """Compares the videos `listed` of a source with an index; what needs no work is counted in `report`."""

    def __init__(
        self, writer: IndexWriter, source: Source, listed: list[SourceVideo], report: IndexReport
    ) -> None:
        self._writer = writer
        self._catalog: Catalog = writer.catalog
        self._source = source
        self._report = report
        self._listed = {video.name for video in listed}
        sizes = Counter(video.size for video in listed)
        self._sizes = self._catalog.sizes() | {size for size, number in sizes.items() if number > 1}
        self._sources = {source.name, *self._moved_here({video.name: video.size for video in listed})}
        self._own = {
            name: video_id
            for known in (*(self._sources - {source.name}), source.name)  # its own videos win
            for name, (video_id, _) in self._catalog.names_of(known).items()
        }
        entries = self._catalog.taken_out()
        self._out: dict[str, TakenOut] = {e.name: e for e in entries if e.source in self._sources}
        self._out_digests = {entry.digest for entry in entries}
        self._given: set[str] = set()
        self._replaced: set[str] = set()
        self._same: dict[str, _Same] = {}

    def _moved_here(self, listed: dict[str, int]) -> list[str]:
        """Sources that no longer exist and of whose videos at least half are here, by id and size."""
        found = []
        for other in self._catalog.sources():
            if other == self._source.name or Path(other).exists():
                continue
            held = self._catalog.names_of(other)
            here = sum(listed.get(name) == size for name, (_, size) in held.items())
            if 2 * here >= len(held):
                found.append(other)
        return found

    def look(self, video: SourceVideo) -> Task | None:
        """The task for a listed video; None if there is nothing to do, or it cannot be read."""
        try:
            video.name.encode()
        except UnicodeEncodeError:
            name = os.fsencode(video.name).decode("utf-8", "replace")
            self._report.fail(name, "bad name", "the name of the file is not UTF-8")
            return None
        held = self._catalog.find(self._own.get(video.name, ""))
        return self._look_new(video) if held is None else self._look_again(video, held[1])

    def _look_again(self, video: SourceVideo, record: VideoRecord) -> Task | None:
        path = str(video.path) if video.path is not None else None
        in_place = (record.path, record.source) == (path, self._source.name)
        untouched = in_place and (record.size, record.mtime_ns) == (video.size, video.mtime_ns)
        if untouched and not isinstance(self._source, StoreSource):
            self._report.unchanged += 1
            return None
        digest = self.digest(video)
        if digest is None:
            return None
        if digest != record.digest:
            return Task(video, record.video_id, digest)
        self._report.unchanged += in_place
        self._report.moved += not in_place
        if not untouched:
            self._writer.update_file(record_of(self._source, video, video_id=record.video_id, digest=digest))
        return None

    def _look_new(self, video: SourceVideo) -> Task | None:
        entry = self._out.get(video.name)
        digest = None
        if entry is not None or video.size in self._sizes:
            digest = self.digest(video)
            if digest is None:
                return None
        # A user may have taken out one of several copies: then a new name of another one is no return of it.
        returns = digest in self._out_digests and not self._catalog.by_digest(str(digest))
        if returns or (entry is not None and entry.digest == digest):
            self._report.taken_out += 1
            return None
        return Task(video, None, digest)

    def digest(self, video: SourceVideo) -> str | None:
        """SHA-256 of a video; None if that failed, which is counted."""
        try:
            return self._source.digest(video)
        except ClipError as error:
            self._report.fail(video.name, error.reason, error.message)
            return None

    def copy_for(self, task: Task) -> Copy | None:
        """The features that `task` can take from a video with the same contents; None if there is none."""
        if task.digest is None:
            return None
        same = self._same_contents(task.digest)
        if same is None:
            return None
        (row, record), replaces = same.first, None
        if same.gone and task.video_id is None:
            row, record = same.gone.popleft()
            replaces = record.video_id
            self._replaced.add(replaces)
            if same.first[1].video_id == replaces:
                del self._same[task.digest]
        own = record_of(
            self._source, task.video, video_id=self.id_for(task, replaces=replaces), digest=task.digest
        )
        return Copy(dataclasses.replace(own, duration=record.duration, times=record.times), row, replaces)

    def start_copying(self) -> None:
        """Before calls of `copy_for`: the index may have other videos now."""
        self._same.clear()

    def _same_contents(self, digest: str) -> _Same | None:
        """The videos of the index with these contents, looked up once: there may be thousands of copies."""
        if digest not in self._same:
            held = self._catalog.by_digest(digest)
            if not held:
                return None
            gone = [entry for entry in held if self._is_gone(entry[1])]
            names = {record.video_id for _, record in gone}
            here = [entry for entry in held if entry[1].video_id not in names]
            self._same[digest] = _Same((here or held)[0], deque(gone))
        return self._same[digest]

    def id_for(self, task: Task, *, replaces: str | None = None) -> str:
        """The id of a video in the index: its id in the source, after the folder's name if that is taken."""
        if task.video_id is not None:
            return task.video_id
        name, folder = task.video.name, Path(self._source.name).name
        for number in count():
            start = ("", f"{folder}/")[number] if number < 2 else f"{folder}-{number}/"
            video_id = start + name
            if video_id == replaces or (video_id not in self._given and self._catalog.find(video_id) is None):
                self._given.add(video_id)
                return video_id
        raise AssertionError("unreachable")

    def _is_gone(self, record: VideoRecord) -> bool:
        """Whether a video of the index is at its place no more, so that a file elsewhere may be the same."""
        if record.video_id in self._replaced:
            return False
        if record.source in self._sources:
            return record.source_name not in self._listed and not self._is_hidden(record)
        return record.is_missing

    def _is_hidden(self, record: VideoRecord) -> bool:
        """Whether a video is in a folder that could not be read: it may still exist."""
        return any(record.source_name.startswith(start) for start, _ in self._source.unread)

    def absent(self) -> list[str]:
        """The ids of the videos that the source no longer has."""
        return [
            record.video_id
            for _, record in self._catalog.records()
            if record.source in self._sources
            and record.source_name not in self._listed
            and not self._is_hidden(record)
        ]
