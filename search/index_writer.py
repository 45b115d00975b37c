"""Write an index folder: a valid index at every moment, even if the process is killed.

Features are appended and forced to disk first; then one SQLite transaction adds their videos. The next writer
overwrites what a killed writer left after the last committed row. D joint width, F frames.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError, file_errors
from common.locks import FileLock, LockedError
from search.catalog import Catalog
from search.engines import open_engine
from search.index_folder import differing, map_features
from search.index_format import (
    DTYPE,
    LOCK_FILE,
    SETTINGS_FILE,
    IndexSettings,
    Span,
    VideoIndexError,
    VideoRecord,
    check_new_folder,
    feature_paths,
    read_settings,
)
from search.rows import FeatureRows

_COMPACT_FROM = 1000  # removed rows below this are not worth a rewrite
_COPY = 4096  # rows copied at once


@dataclass(frozen=True)
class Entry:
    """One video to add: its record, `video` [D] and `frames` [F, D] of length 1, thumbnails by frame.

    `lengths` [F]: the lengths of the frames' features, for an index that stores them.
    """

    record: VideoRecord
    video: np.ndarray
    frames: np.ndarray
    thumbnails: Sequence[tuple[int, bytes]] = ()
    lengths: np.ndarray | None = None


@dataclass(frozen=True)
class Moments:
    """The n moments of a long video: their spans, `video` [n, D] and `frames` [n, F, D] of length 1.

    `thumbnails` of each by frame; `lengths` [n, F] for an index that stores them.
    """

    spans: Sequence[Span]
    video: np.ndarray
    frames: np.ndarray
    thumbnails: Sequence[Sequence[tuple[int, bytes]]]
    lengths: np.ndarray | None = None


@dataclass(frozen=True)
class Copy:
    """One video to add with the features of the video at `row`.

    The video `replaces` (None: none) leaves the index.
    """

    record: VideoRecord
    row: int
    replaces: str | None = None


class IndexWriter:
    """The only writer of `folder`, which is made if it does not exist; a context manager.

    Raises `VideoIndexError` if another process writes, or if the index belongs to another model than
    `settings`, and `FileError` if the disk is full; what was committed stays.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: IndexSettings | None = None) -> None:
        self.folder = Path(folder)
        _make_folder(self.folder, create=settings is not None)
        try:
            self._lock = FileLock(self.folder / LOCK_FILE)
        except LockedError as error:
            raise VideoIndexError(str(error)) from None
        try:
            self.settings = _settled(self.folder, settings)
            self.catalog = Catalog(self.folder, create=True)
            numbers = self.catalog.snapshot()
            self.rows, self.generation = numbers.get("rows", 0), numbers.get("generation", 0)
            self._remove_stale_files()
            self._files = _open_for_appending(self._paths(self.generation))
            self._cut_tails()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and release the lock."""
        for file in self._files:
            file.close()
        self.catalog.close()
        self._lock.release()

    def features(self) -> FeatureRows:
        """All committed rows, mapped."""
        numbers = {"rows": self.rows, "generation": self.generation}
        return map_features(
            self.folder,
            numbers,
            width=self.settings.width,
            frames=self.settings.frames,
            lengths=self.settings.lengths,
        )

    def _paths(self, generation: int) -> tuple[Path, ...]:
        return feature_paths(self.folder, generation, lengths=self.settings.lengths)

    def add(self, entries: Sequence[Entry]) -> None:
        """Add videos, all or none; they replace videos with the same ids."""
        if not entries:
            return
        video = np.stack([entry.video for entry in entries])
        frames = np.stack([entry.frames for entry in entries])
        thumbnails = [entry.thumbnails for entry in entries]
        lengths = [entry.lengths for entry in entries if entry.lengths is not None]
        self.add_arrays(
            [entry.record for entry in entries],
            video,
            frames,
            thumbnails,
            lengths=np.stack(lengths) if lengths else None,
        )

    def add_arrays(
        self,
        records: Sequence[VideoRecord],
        video: np.ndarray,
        frames: np.ndarray,
        thumbnails: Sequence[Iterable[tuple[int, bytes]]] = (),
        *,
        lengths: np.ndarray | None = None,
    ) -> None:
        """`add` of many at once: `video` [n, D], `frames` [n, F, D], `lengths` [n, F] if they are stored."""
        assert len({record.video_id for record in records}) == len(records)
        assert video.shape == (len(records), self.settings.width)
        assert frames.shape == (len(records), self.settings.frames, self.settings.width)
        features = FeatureRows(video, frames, lengths)
        assert (lengths is not None) == self.settings.lengths
        self._append(features.arrays)
        with self.catalog.transaction():
            self._put(records, thumbnails)
        self.rows += len(records)

    def add_moments(self, record: VideoRecord, moments: Moments) -> None:
        """Add one long video, all of it or nothing; it replaces one with the same id."""
        self._append(FeatureRows(moments.video, moments.frames, moments.lengths).arrays)
        with self.catalog.transaction():
            self._put_moments(self.rows, record, moments.spans, moments.thumbnails)
            self._bump(rows=self.rows + len(moments.spans))
        self.rows += len(moments.spans)

    def _put_moments(
        self,
        row: int,
        record: VideoRecord,
        spans: Sequence[Span],
        thumbnails: Sequence[Iterable[tuple[int, bytes]]],
    ) -> None:
        """Inside a transaction: a video at `row`, with moments if there are spans, and its thumbnails."""
        self.catalog.put_at([(row, record)])
        self.catalog.moments.put(row, spans)
        for place, jpegs in enumerate(thumbnails, start=row):
            self.catalog.put_thumbnails(place, jpegs)

    def _put(self, records: Sequence[VideoRecord], thumbnails: Sequence[Iterable[tuple[int, bytes]]]) -> None:
        """Inside a transaction: the records of the rows that were appended."""
        self.catalog.put(self.rows, records)
        for row, jpegs in enumerate(thumbnails, start=self.rows):
            self.catalog.put_thumbnails(row, jpegs)
        self._bump(rows=self.rows + len(records))

    def update_file(self, record: VideoRecord) -> None:
        """Store the new path of a video whose contents did not change."""
        with self.catalog.transaction():
            self.catalog.update_file(record)
            self._bump()

    def copy(self, copies: Sequence[Copy]) -> None:
        """Add videos with the features of others, all or none."""
        if not copies:
            return
        parts = [self.catalog.moments.rows_of(copy.row) for copy in copies]
        rows = np.concatenate([np.asarray(part) for part in parts])
        held = self.features()
        spans = [self.catalog.moments.of_video(copy.row) for copy in copies]
        jpegs = [[self.catalog.thumbnails(row) for row in part] for part in parts]
        self._append([array[rows] for array in held.arrays])
        with self.catalog.transaction():
            self.catalog.remove([copy.replaces for copy in copies if copy.replaces is not None])
            row = self.rows
            for copy, part, each, pictures in zip(copies, parts, spans, jpegs, strict=True):
                self._put_moments(row, copy.record, each, pictures)
                row += len(part)
            self._bump(rows=row)
        self.rows = row

    def remove(self, video_ids: Sequence[str], *, remember: bool = False) -> int:
        """Remove videos; returns how many of them the index held. `remember`: indexing leaves them out."""
        with self.catalog.transaction():
            if remember:
                held = (self.catalog.find(video_id) for video_id in video_ids)
                self.catalog.remember([entry[1] for entry in held if entry is not None])
            removed = self.catalog.remove(video_ids)
            if removed:
                self._bump()
        return removed

    def finish(self, **engine_options: Any) -> None:
        """Compact the features if many rows are removed, then bring the engine up to date and save it.

        Raises `UserError` if the engine's library is not installed; all videos are in the index nevertheless.
        """
        removed = self.rows - self.catalog.count_rows()
        if removed >= _COMPACT_FROM and 2 * removed > self.rows:
            self.compact()
        options = {**(self.settings.engine_options or {}), **engine_options}
        engine = open_engine(self.settings.engine, self.folder, self.features(), self.catalog, options)
        save = getattr(engine, "save", None)
        if save is not None:
            save(self.folder)
        engine.close()

    def compact(self) -> None:
        """Copy the features of live rows to new files. Readers keep the old files until they close them."""
        live = np.asarray(self.catalog.live_rows(), dtype=np.int64)
        old, generation = self.features(), self.generation + 1
        for array, path in zip(old.arrays, self._paths(generation), strict=True):
            with file_errors(path, "cannot be written"), open(path, "wb") as file:
                for start in range(0, len(live), _COPY):
                    array[live[start : start + _COPY]].tofile(file)
                file.flush()
                os.fsync(file.fileno())
        with self.catalog.transaction():
            self.catalog.renumber(live.tolist())
            self.catalog.set_meta("generation", generation)
            self._bump(rows=len(live))
        self.rows, self.generation = len(live), generation
        for opened in self._files:
            opened.close()
        self._files = _open_for_appending(self._paths(generation))
        self._remove_stale_files()

    def _bump(self, *, rows: int | None = None) -> None:
        """Inside a transaction: mark the index as changed."""
        self.catalog.set_meta("version", self.catalog.meta("version") + 1)
        self.catalog.set_meta("rows", self.rows if rows is None else rows)
        self.catalog.set_meta("generation", self.catalog.meta("generation"))

    def _append(self, arrays: Sequence[np.ndarray]) -> None:
        try:
            for file, array in zip(self._files, arrays, strict=True):
                with file_errors(str(file.name), "cannot be written"):
                    rest = np.ascontiguousarray(array, dtype=DTYPE).data.cast("B")
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
        except FileError:
            self._cut_tails()
            raise

    def _cut_tails(self) -> None:
        """Remove everything after the last committed row."""
        width, frames = self.settings.width, self.settings.frames
        itemsize = np.dtype(DTYPE).itemsize
        sizes = (width, frames * width, *([frames] if self.settings.lengths else []))
        for file, numbers in zip(self._files, sizes, strict=True):
            length = self.rows * numbers * itemsize
            if os.fstat(file.fileno()).st_size < length:
                raise VideoIndexError(f"{file.name}: absent or cut off; make the index again")
            os.ftruncate(file.fileno(), length)

    def _remove_stale_files(self) -> None:
        current = set(self._paths(self.generation))
        for path in self.folder.glob("*-*.f16"):
            if path not in current:
                path.unlink(missing_ok=True)


def _open_for_appending(paths: Sequence[Path]) -> list[io.FileIO]:
    # Unbuffered: closing a buffer would try again to write what did not fit on the disk.
    return [io.FileIO(path, "ab") for path in paths]


def _make_folder(folder: Path, *, create: bool) -> None:
    if not create and not (folder / SETTINGS_FILE).exists():
        raise VideoIndexError(f"{folder}: no index there; tools/search.py index makes one")
    check_new_folder(folder)
    with file_errors(folder, "cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)


def _settled(folder: Path, settings: IndexSettings | None) -> IndexSettings:
    """The settings of the index; a new index gets `settings`."""
    if settings is None or (folder / SETTINGS_FILE).exists():
        held = read_settings(folder)
        if settings is None:
            return held
        if held.model["hash"] != settings.model["hash"]:
            raise VideoIndexError(
                f"{folder}: made by another model: {differing(held.model, settings.model)}; "
                "give another folder"
            )
        settings = replace(settings, width=held.width, frames=held.frames, lengths=held.lengths)
        if settings == held:
            return held
    settings.save(folder)
    return settings
