"""An index folder that is open for searching: features mapped from disk, the catalogue, the engine.

R rows, D joint width, F frames a video.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.catalog import Catalog
from search.engines import CandidateEngine, open_engine
from search.index_format import (
    DTYPE,
    Row,
    Span,
    VideoIndexError,
    VideoRecord,
    feature_paths,
    kind_of,
    read_settings,
)
from search.rows import FeatureRows


@dataclass(frozen=True)
class Snapshot:
    """An index at one moment. `alive` [R] is False for rows of removed videos; None: no row is removed.

    `videos`: how many there are; `cut`: whether there are moments of long ones.
    """

    features: FeatureRows
    alive: np.ndarray | None
    generation: int
    version: int
    videos: int
    cut: bool

    @property
    def removed(self) -> int:
        """The number of rows of removed videos."""
        return 0 if self.alive is None else int((~self.alive).sum())

    def without_removed(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that hold a video."""
        committed = rows[rows < self.features.rows]
        return committed if self.alive is None else committed[self.alive[committed]]


class VideoIndex:
    """The index at `folder`, for reading; also a context manager. Threads may share it.

    `engine` ("faiss", "qdrant", "exact") and `url` override the settings of the index. Another process may
    write at the same time: `refresh` reads what it added. Raises `VideoIndexError` if there is no usable
    index.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, engine: str | None = None, url: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self.settings = read_settings(self.folder)
        self._engine_name = engine or self.settings.engine
        if url and self._engine_name != "qdrant":
            raise VideoIndexError(f"--url is for --engine qdrant; the engine is {self._engine_name}")
        self.catalog = Catalog(self.folder)
        self._engine_options = {**(self.settings.engine_options or {}), **({"url": url} if url else {})}
        self._engine: CandidateEngine | None = None
        self._lock = threading.RLock()
        self._snapshot = self._take_snapshot()

    def __enter__(self) -> VideoIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self.catalog.close()

    def __len__(self) -> int:
        return self._snapshot.videos

    def __contains__(self, video_id: object) -> bool:
        return isinstance(video_id, str) and self.catalog.find(video_id) is not None

    @property
    def features(self) -> FeatureRows:
        """All rows, also those of removed videos."""
        return self._snapshot.features

    def snapshot(self) -> Snapshot:
        """The index as it is now. The snapshot does not change while others write."""
        self.refresh()
        return self._snapshot

    def refresh(self) -> bool:
        """Read what was written since the last call; returns whether there was anything."""
        with self._lock:
            if self.catalog.meta("version") == self._snapshot.version:
                return False
            self._snapshot = self._take_snapshot()
            engine, self._engine = self._engine, None  # if `update` fails, the next query opens a new one
            if engine is not None and engine.update(self.features, self.catalog):
                self._engine = engine
            # An engine that cannot be updated is not closed: another thread may be searching with it.
            return True

    def _take_snapshot(self) -> Snapshot:
        while True:
            numbers = self.catalog.snapshot()
            try:
                features = map_features(
                    self.folder,
                    numbers,
                    width=self.settings.width,
                    frames=self.settings.frames,
                    lengths=self.settings.lengths,
                )
            except VideoIndexError:
                if self.catalog.meta("generation") == numbers.get("generation", 0):
                    raise
                continue  # the folder was compacted just now: the files of the old generation are gone
            videos, (moments, cut) = self.catalog.count(), self.catalog.moments.counts()
            alive = None
            if videos - cut + moments < features.rows:
                alive = np.zeros(features.rows, dtype=bool)
                alive[[row for row in self.catalog.live_rows() if row < features.rows]] = True
            return Snapshot(
                features,
                alive,
                numbers.get("generation", 0),
                numbers.get("version", 0),
                videos=videos,
                cut=moments > 0,
            )

    @property
    def engine(self) -> CandidateEngine:
        """The engine that proposes candidates; opened at the first query."""
        with self._lock:
            if self._engine is None:
                self._engine = open_engine(
                    self._engine_name, self.folder, self.features, self.catalog, self._engine_options
                )
            return self._engine

    def record(self, video_id: str) -> VideoRecord | None:
        """The record of a video; None if the index does not hold it."""
        entry = self.catalog.find(video_id)
        return entry[1] if entry else None

    def records(self) -> Iterator[VideoRecord]:
        """All videos, in the order in which they were added."""
        return (record for _, record in self.catalog.records())

    def records_of(self, rows: Sequence[int]) -> dict[int, Row]:
        """What `rows` hold, without those of removed videos."""
        return self.catalog.by_rows(rows)

    def vector(self, video_id: str) -> np.ndarray:
        """The video embed [D], float32; of a video that is cut, the mean of its moments'.

        Raises `VideoIndexError` if the index does not hold the video.
        """
        while True:
            snapshot = self.snapshot()
            entry = self.catalog.find(video_id)
            if entry is None:
                raise VideoIndexError(f"{self.folder}: no video {video_id!r} in the index")
            # If rows were added or moved between the two reads, read again.
            rows = self.catalog.moments.rows_of(entry[0])
            known = rows.stop <= snapshot.features.rows
            if known and self.catalog.meta("generation") == snapshot.generation:
                held = snapshot.features.video[rows.start : rows.stop]
                return np.asarray(np.asarray(held, dtype=np.float32).mean(axis=0))

    def thumbnail(self, video_id: str, *, frame: int | None = None) -> bytes | None:
        """The JPEG nearest to `frame` (`Hit.frame`), by default the middle one; None if there is none."""
        entry = self.catalog.find(video_id)
        if entry is None:
            return None
        rows, each = self.catalog.moments.rows_of(entry[0]), self.settings.frames
        if len(rows) == 1:
            return self.catalog.thumbnail(entry[0], frame)
        frame = len(rows) * each // 2 if frame is None else frame
        return self.catalog.thumbnail(rows[min(frame // each, len(rows) - 1)], frame % each)

    def spans(self, video_id: str) -> list[Span]:
        """The moments of a long video, in order; none of a video that is not cut or not in the index."""
        entry = self.catalog.find(video_id)
        return self.catalog.moments.of_video(entry[0]) if entry else []

    def check_model(self, identity: dict[str, Any]) -> None:
        """Raise `VideoIndexError` if another model than `identity` made the index."""
        theirs = self.settings.model
        if theirs["hash"] != identity["hash"]:
            raise VideoIndexError(
                f"{self.folder}: made by another model: {differing(theirs, identity)}; "
                "search with that model, or make another index"
            )

    def info(self) -> dict[str, Any]:
        """Counts, sizes in bytes and settings."""
        sizes = {path.name: path.stat().st_size for path in _files(self.folder)}
        return {
            "videos": len(self),
            "moments": self.catalog.moments.counts()[0],
            "copies": self.catalog.copies(),
            "taken_out": [entry.video_id for entry in self.catalog.taken_out()],
            "sources": self.catalog.sources(),
            "removed_rows": self._snapshot.removed,
            "frames": self.settings.frames,
            "width": self.settings.width,
            "engine": self._engine_name,
            "thumbnails": self.settings.thumbnails,
            "model": self.settings.model,
            "bytes": sum(sizes.values()),
            "files": sizes,
        }


def map_features(
    folder: Path, numbers: dict[str, int], *, width: int, frames: int, lengths: bool = False
) -> FeatureRows:
    """The features of the committed rows. Raises `VideoIndexError` if a file is absent or too short."""
    rows = numbers.get("rows", 0)
    if not rows:
        return FeatureRows.empty(width, frames)
    arrays = []
    shapes: list[tuple[int, ...]] = [(rows, width), (rows, frames, width)]
    shapes += [(rows, frames)] if lengths else []
    paths = feature_paths(folder, numbers.get("generation", 0), lengths=lengths)
    for path, shape in zip(paths, shapes, strict=True):
        try:
            # "c": nothing is written to the file. Torch warns of arrays that are not writable.
            arrays.append(np.memmap(path, dtype=DTYPE, mode="c", shape=shape))
        except (OSError, ValueError):  # numpy raises ValueError for a file that is too short
            raise VideoIndexError(f"{path}: absent or cut off; make the index again") from None
    return FeatureRows(*arrays)


def differing(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Which settings differ between two models' records, in words."""
    if kind_of(theirs) != kind_of(ours):
        return f"{kind_of(theirs)} {theirs['path']} there, {kind_of(ours)} {ours['path']} here"
    others = ("hash", "path", "settings", "kind")  # settings that count are listed by themselves
    names = [name for name in ours if name not in others and theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {_short(theirs.get(name))} there, {_short(ours[name])} here" for name in names)


def _short(value: Any) -> str:
    return repr(value[:12]) if isinstance(value, str) and len(value) == 64 else repr(value)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
