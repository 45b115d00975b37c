"""The catalogue of an index: ids, files, times and thumbnails in SQLite. Every change is atomic.

A video belongs to the index if and only if the table `videos` has its row. Its features are written before.
A long video has several rows one after another, of which `videos` has the first and `moments` has all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.errors import FileError
from search.index_format import CATALOG_FILE, Row, VideoIndexError, VideoRecord
from search.moments.span_table import TABLE, SpanTable, in_parts

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS videos (
    row INTEGER PRIMARY KEY, video_id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, path TEXT,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL,
    duration REAL, times TEXT NOT NULL, name TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS thumbnails (place INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS taken_out (
    source TEXT, name TEXT, video_id TEXT, size INTEGER, mtime_ns INTEGER, digest TEXT,
    PRIMARY KEY (source, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS videos_by_digest ON videos (digest);
"""
_COLUMNS = tuple(field.name for field in fields(VideoRecord))
_PLACES = 64  # the thumbnail of row r, frame f has the key r * 64 + f: a model has at most 48 frames


@dataclass(frozen=True)
class TakenOut:
    """A video that a user took out of the index: its source, its id there and in the index, its file."""

    source: str
    name: str
    video_id: str
    size: int
    mtime_ns: int
    digest: str


class Catalog:
    """The open catalogue. Threads may share it; one process at a time may write (`IndexWriter`'s lock)."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.path = folder / CATALOG_FILE
        mode = "rwc" if create else "rw"  # rw also for reading: SQLite rolls back what a killed writer left
        try:
            self._db = self._connect(mode)
        except sqlite3.OperationalError:
            self._db = self._connect("ro")  # a read-only folder
        self._file = self._identity()
        self._lock = threading.RLock()
        if create:
            with self._errors():
                self._db.executescript(_TABLES + TABLE)
                if not self._has_names():  # a catalogue of an earlier version
                    self._db.execute("ALTER TABLE videos ADD COLUMN name TEXT NOT NULL DEFAULT ''")
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('name', ?)", (uuid.uuid4().hex,))
        self.moments = SpanTable(self._db, self._rows)
        columns = [c if c != "name" or self._has_names() else "'' AS name" for c in _COLUMNS]
        self._select = f"SELECT row, {', '.join(columns)} FROM videos"

    def _has_names(self) -> bool:
        with self._errors():
            return any(row[1] == "name" for row in self._db.execute("PRAGMA table_info(videos)"))

    def _connect(self, mode: str) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                check_same_thread=False,
                isolation_level=None,
                timeout=30.0,
            )
            if mode != "rwc":
                db.execute("SELECT count(*) FROM meta").fetchone()
        except sqlite3.OperationalError:
            if mode == "rw":
                raise
            raise VideoIndexError(f"{self.path}: cannot be opened; make the index again") from None
        except sqlite3.DatabaseError as error:
            raise VideoIndexError(f"{self.path}: {error}; make the index again") from None
        return db

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours: `FileError` for a full disk, else `VideoIndexError`."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "full" in str(error) or "I/O" in str(error):
                full = FileError(f"{self.path}: {error}; what was committed before is kept")
                full.errno = errno.ENOSPC
                raise full from error
            raise VideoIndexError(f"{self.path}: {error}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside, or none of them."""
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._errors():
            if self._identity() != self._file:  # the open file may belong to an index that was deleted
                raise VideoIndexError(
                    f"{self.path}: was moved, deleted or replaced since it was opened; open the index again"
                )
            return self._db.execute(statement, values).fetchall()

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of the file at `path`; None if there is none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    # Reading

    def meta(self, name: str, default: int = 0) -> int:
        """A number by name: "rows", "generation", "version"."""
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else default

    def text(self, name: str) -> str:
        """A text by name: "name" is a random name that the index got when it was made."""
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def snapshot(self) -> dict[str, int]:
        """All numbers of `meta`, read at one moment."""
        rows = self._rows("SELECT name, value FROM meta WHERE typeof(value) = 'integer'")
        return {name: int(value) for name, value in rows}

    def count(self) -> int:
        """The number of videos."""
        return int(self._rows("SELECT count(*) FROM videos")[0][0])

    def find(self, video_id: str) -> tuple[int, VideoRecord] | None:
        """(row, record) of a video."""
        rows = self._rows(f"{self._select} WHERE video_id = ?", (video_id,)) if _is_text(video_id) else []
        return _record(rows[0]) if rows else None

    def by_digest(self, digest: str) -> list[tuple[int, VideoRecord]]:
        """(row, record) of the videos with these contents, by row."""
        return [
            _record(row) for row in self._rows(f"{self._select} WHERE digest = ? ORDER BY row", (digest,))
        ]

    def names_of(self, source: str) -> dict[str, tuple[str, int]]:
        """The videos of a source: the id in the index and the size in bytes, by the id in the source."""
        name = "CASE name WHEN '' THEN video_id ELSE name END" if self._has_names() else "video_id"
        rows = self._rows(f"SELECT {name}, video_id, size FROM videos WHERE source = ?", (source,))
        return {name: (video_id, size) for name, video_id, size in rows}

    def copies(self) -> int:
        """How many videos have the contents of another one."""
        counted = "SELECT count(*) - count(DISTINCT digest) FROM videos WHERE digest != ''"
        return int(self._rows(counted)[0][0])

    def sources(self) -> dict[str, int]:
        """The number of videos of each source, in the order in which they came."""
        return dict(self._rows("SELECT source, count(*) FROM videos GROUP BY source ORDER BY min(row)"))

    def sizes(self) -> set[int]:
        """The sizes in bytes that videos of the index, and videos that were taken out, have."""
        both = "SELECT size FROM videos UNION SELECT size FROM taken_out"
        return {size for (size,) in self._rows(both)}

    def taken_out(self) -> list[TakenOut]:
        """The videos that `remember` holds."""
        if not self._rows("SELECT 1 FROM sqlite_master WHERE name = 'taken_out'"):
            return []  # a catalogue of an earlier version
        names = "source, name, video_id, size, mtime_ns, digest"
        return [TakenOut(*row) for row in self._rows(f"SELECT {names} FROM taken_out ORDER BY video_id")]

    def by_rows(self, rows: Sequence[int]) -> dict[int, Row]:
        """What `rows` hold, without those of removed videos."""
        moments = self.moments.by_rows(rows)
        first = {row: moments[row][0] if row in moments else row for row in map(int, rows)}
        records = self._records(sorted(set(first.values())))
        held = {row: (records[first[row]], first[row]) for row in first if first[row] in records}
        return {
            row: Row(record, moments[row][1].times, start, moments[row][1].start, moments[row][1].end)
            if row in moments
            else Row(record, record.times, start)
            for row, (record, start) in held.items()
        }

    def _records(self, rows: Sequence[int]) -> dict[int, VideoRecord]:
        found = (self._rows(f"{self._select} WHERE row IN ({marks})", part) for marks, part in in_parts(rows))
        return dict(_record(row) for part in found for row in part)

    def count_rows(self) -> int:
        """The number of rows that hold a video or a moment."""
        moments, videos = self.moments.counts()
        return self.count() - videos + moments

    def records(self) -> Iterator[tuple[int, VideoRecord]]:
        """All (row, record) by row, read in parts so that another process can write between them."""
        last = -1
        while rows := self._rows(f"{self._select} WHERE row > ? ORDER BY row LIMIT 5000", (last,)):
            yield from map(_record, rows)
            last = rows[-1][0]

    def live_rows(self) -> list[int]:
        """The rows that hold a video or a moment, ascending."""
        moments = " UNION SELECT row FROM moments" if self.moments.exists else ""
        return [row for (row,) in self._rows(f"SELECT row FROM videos{moments} ORDER BY row")]

    def thumbnail(self, row: int, frame: int | None) -> bytes | None:
        """The thumbnail of a row that is nearest to `frame`; without `frame` the middle one."""
        first, end = row * _PLACES, (row + 1) * _PLACES
        of_row = "FROM thumbnails WHERE place >= ? AND place < ?"
        # One statement: between two, another process might remove the video.
        if frame is None:
            middle = f"LIMIT 1 OFFSET (SELECT COUNT(*) / 2 {of_row})"
            rows = self._rows(f"SELECT jpeg {of_row} ORDER BY place {middle}", (first, end, first, end))
        else:
            nearest = "ORDER BY ABS(place - ?), place LIMIT 1"
            rows = self._rows(f"SELECT jpeg {of_row} {nearest}", (first, end, first + frame))
        return bytes(rows[0][0]) if rows else None

    def thumbnails(self, row: int) -> list[tuple[int, bytes]]:
        """All (frame, JPEG) of a row."""
        first = row * _PLACES
        of_row = "FROM thumbnails WHERE place >= ? AND place < ? ORDER BY place"
        return [(place - first, jpeg) for place, jpeg in self._rows(
            f"SELECT place, jpeg {of_row}", (first, first + _PLACES))]  # fmt: skip

    # Writing, inside a `transaction`

    def set_meta(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def put(self, first_row: int, records: Sequence[VideoRecord]) -> None:
        """Insert `records` from row `first_row` on; they replace videos with the same ids."""
        self.put_at(list(enumerate(records, start=first_row)))

    def put_at(self, placed: Sequence[tuple[int, VideoRecord]]) -> None:
        """Insert (row, record) each; they replace videos with the same ids."""
        records = [record for _, record in placed]
        self.remove([record.video_id for record in records])
        self._db.executemany(
            "DELETE FROM taken_out WHERE source = ? AND name = ?",
            [(record.source, record.source_name) for record in records],
        )
        marks = ",".join("?" * (len(_COLUMNS) + 1))
        self._db.executemany(
            f"INSERT INTO videos (row, {', '.join(_COLUMNS)}) VALUES ({marks})",
            [(row, *_values(record)) for row, record in placed],
        )

    def put_thumbnails(self, row: int, jpegs: Iterable[tuple[int, bytes]]) -> None:
        """Store the thumbnails (frame, JPEG) of a row."""
        self._db.executemany(
            "INSERT OR REPLACE INTO thumbnails VALUES (?, ?)",
            [(row * _PLACES + frame, jpeg) for frame, jpeg in jpegs],
        )

    def update_file(self, record: VideoRecord) -> None:
        """Store a new path, size and time of a video whose contents did not change."""
        self._db.execute(
            "UPDATE videos SET source = ?, path = ?, size = ?, mtime_ns = ?, digest = ?, name = ? "
            "WHERE video_id = ?",
            (record.source, record.path, record.size, record.mtime_ns, record.digest, record.name,
             record.video_id),
        )  # fmt: skip

    def remember(self, records: Sequence[VideoRecord]) -> None:
        """Store that a user took these videos out, so that they do not come back."""
        self._db.executemany(
            "INSERT OR REPLACE INTO taken_out VALUES (?, ?, ?, ?, ?, ?)",
            [(r.source, r.source_name, r.video_id, r.size, r.mtime_ns, r.digest) for r in records],
        )

    def forget(self, entries: Sequence[TakenOut]) -> None:
        """Undo `remember`."""
        self._db.executemany(
            "DELETE FROM taken_out WHERE source = ? AND name = ?", [(e.source, e.name) for e in entries]
        )

    def remove(self, video_ids: Sequence[str]) -> int:
        """Remove videos; returns how many of them the index held."""
        removed = 0
        for video_id in video_ids:
            held = self._db.execute("SELECT row FROM videos WHERE video_id = ?", (video_id,)).fetchone()
            if held:
                row, rows = held[0], self.moments.rows_of(held[0])
                self._db.execute("DELETE FROM videos WHERE row = ?", (row,))
                self.moments.remove(row)
                self._db.execute(
                    "DELETE FROM thumbnails WHERE place >= ? AND place < ?",
                    (rows.start * _PLACES, rows.stop * _PLACES),
                )
                removed += 1
        return removed

    def renumber(self, rows: Sequence[int]) -> None:
        """Row `rows[i]` becomes row i. `rows` ascend, so that a new number is always free."""
        for new, old in enumerate(rows):
            if new != old:
                self._db.execute("UPDATE videos SET row = ? WHERE row = ?", (new, old))
                self.moments.renumber(old, new)
                self._db.execute(
                    "UPDATE thumbnails SET place = place - ? WHERE place >= ? AND place < ?",
                    ((old - new) * _PLACES, old * _PLACES, (old + 1) * _PLACES),
                )


def _is_text(video_id: object) -> bool:
    """Whether SQLite can store it. Names of files that are not UTF-8 have lone surrogates."""
    if not isinstance(video_id, str):
        return False
    try:
        video_id.encode()
    except UnicodeEncodeError:
        return False
    return True


def _values(record: VideoRecord) -> tuple[Any, ...]:
    values = [getattr(record, name) for name in _COLUMNS]
    values[_COLUMNS.index("times")] = json.dumps(record.times)
    return tuple(values)


def _record(columns: Sequence[Any]) -> tuple[int, VideoRecord]:
    values = dict(zip(_COLUMNS, columns[1:], strict=True))
    values["times"] = tuple(json.loads(values["times"]))
    return int(columns[0]), VideoRecord(**values)
