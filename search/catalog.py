"""The catalogue of an index: ids, files, times and thumbnails, in SQLite, which makes every change atomic.

A video is there exactly when its row is in the table `videos`; its features were on disk before.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from search.index_format import CATALOG_FILE, VideoIndexError, VideoRecord

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS videos (
    row INTEGER PRIMARY KEY, video_id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, path TEXT,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL,
    duration REAL, times TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS thumbnails (place INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
"""
_COLUMNS = tuple(field.name for field in fields(VideoRecord))
_SELECT = f"SELECT row, {', '.join(_COLUMNS)} FROM videos"
_PLACES = 64  # thumbnails of row r lie at r * 64 + frame: a model has at most 48 frame positions
_FEW = 500  # values in one statement: older SQLite takes 999


class Catalog:
    """The open catalogue. Threads may share it; one process at a time may write (`IndexWriter`'s lock)."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.path = folder / CATALOG_FILE
        mode = "rwc" if create else "rw"  # rw also for reading: what a killed writer left is rolled back
        try:
            self._db = self._connect(mode)
        except sqlite3.OperationalError:
            self._db = self._connect("ro")  # a read-only folder
        self._file = self._identity()
        self._lock = threading.RLock()
        if create:
            with self._errors():
                self._db.executescript(_TABLES)
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('name', ?)", (uuid.uuid4().hex,))

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
        """SQLite's errors in our words: a full disk is an `OSError`, as it is for the other files."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "full" in str(error) or "I/O" in str(error):
                raise OSError(f"{self.path}: {error}; what was there before is unharmed") from error
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
            if self._identity() != self._file:  # else an open file would answer for ever for a deleted index
                raise VideoIndexError(
                    f"{self.path}: was moved, deleted or made anew since it was opened; open the index again"
                )
            return self._db.execute(statement, values).fetchall()

    def _identity(self) -> tuple[int, int] | None:
        """Which file lies there; None: none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    # What is there

    def meta(self, name: str, default: int = 0) -> int:
        """A number by name: "rows", "generation", "version"."""
        found = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return int(found[0][0]) if found else default

    def text(self, name: str) -> str:
        """A text by name: "name" is the index's own, made with it."""
        found = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return str(found[0][0]) if found else ""

    def snapshot(self) -> dict[str, int]:
        """All numbers at one moment."""
        found = self._rows("SELECT name, value FROM meta WHERE typeof(value) = 'integer'")
        return {name: int(value) for name, value in found}

    def count(self) -> int:
        """How many videos there are."""
        return int(self._rows("SELECT count(*) FROM videos")[0][0])

    def find(self, video_id: str) -> tuple[int, VideoRecord] | None:
        """(row, record) of a video."""
        found = self._rows(f"{_SELECT} WHERE video_id = ?", (video_id,)) if _is_text(video_id) else []
        return _record(found[0]) if found else None

    def by_rows(self, rows: Sequence[int]) -> dict[int, VideoRecord]:
        """The records of `rows`; removed ones are absent."""
        result: dict[int, VideoRecord] = {}
        for start in range(0, len(rows), _FEW):
            some = [int(row) for row in rows[start : start + _FEW]]
            marks = ",".join("?" * len(some))
            result |= dict(map(_record, self._rows(f"{_SELECT} WHERE row IN ({marks})", some)))
        return result

    def records(self) -> Iterator[tuple[int, VideoRecord]]:
        """All (row, record), by row, read in pieces so that others can write meanwhile."""
        last = -1
        while found := self._rows(f"{_SELECT} WHERE row > ? ORDER BY row LIMIT 5000", (last,)):
            yield from map(_record, found)
            last = found[-1][0]

    def live_rows(self) -> list[int]:
        """The rows that hold a video, ascending."""
        return [row for (row,) in self._rows("SELECT row FROM videos ORDER BY row")]

    def thumbnail(self, row: int, frame: int | None) -> bytes | None:
        """The thumbnail of a row nearest to `frame`, or the middle one."""
        first, end = row * _PLACES, (row + 1) * _PLACES
        of_row = "FROM thumbnails WHERE place >= ? AND place < ?"
        # In one statement: another process may remove the video between two.
        if frame is None:
            middle = f"LIMIT 1 OFFSET (SELECT COUNT(*) / 2 {of_row})"
            found = self._rows(f"SELECT jpeg {of_row} ORDER BY place {middle}", (first, end, first, end))
        else:
            nearest = "ORDER BY ABS(place - ?), place LIMIT 1"
            found = self._rows(f"SELECT jpeg {of_row} {nearest}", (first, end, first + frame))
        return bytes(found[0][0]) if found else None

    # Changes, inside a `transaction`

    def set_meta(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def put(self, first_row: int, records: Sequence[VideoRecord]) -> None:
        """Give `records` the rows from `first_row` on; videos of the same ids go."""
        self.remove([record.video_id for record in records])
        marks = ",".join("?" * (len(_COLUMNS) + 1))
        self._db.executemany(
            f"INSERT INTO videos (row, {', '.join(_COLUMNS)}) VALUES ({marks})",
            [(row, *_values(record)) for row, record in enumerate(records, start=first_row)],
        )

    def put_thumbnails(self, row: int, jpegs: Iterable[tuple[int, bytes]]) -> None:
        """The thumbnails (frame, JPEG) of a row."""
        self._db.executemany(
            "INSERT OR REPLACE INTO thumbnails VALUES (?, ?)",
            [(row * _PLACES + frame, jpeg) for frame, jpeg in jpegs],
        )

    def update_file(self, record: VideoRecord) -> None:
        """Note another path, size and time of a video whose contents are as they were."""
        self._db.execute(
            "UPDATE videos SET source = ?, path = ?, size = ?, mtime_ns = ?, digest = ? WHERE video_id = ?",
            (record.source, record.path, record.size, record.mtime_ns, record.digest, record.video_id),
        )

    def remove(self, video_ids: Sequence[str]) -> int:
        """Take videos out; how many there were of them."""
        removed = 0
        for video_id in video_ids:
            found = self._db.execute("SELECT row FROM videos WHERE video_id = ?", (video_id,)).fetchone()
            if found:
                row = found[0]
                self._db.execute("DELETE FROM videos WHERE row = ?", (row,))
                self._db.execute(
                    "DELETE FROM thumbnails WHERE place >= ? AND place < ?",
                    (row * _PLACES, (row + 1) * _PLACES),
                )
                removed += 1
        return removed

    def renumber(self, rows: Sequence[int]) -> None:
        """Row `rows[i]` becomes row i; `rows` ascend, so no number is taken twice on the way."""
        for new, old in enumerate(rows):
            if new != old:
                self._db.execute("UPDATE videos SET row = ? WHERE row = ?", (new, old))
                self._db.execute(
                    "UPDATE thumbnails SET place = place - ? WHERE place >= ? AND place < ?",
                    ((old - new) * _PLACES, old * _PLACES, (old + 1) * _PLACES),
                )


def _is_text(video_id: str) -> bool:
    """Whether SQLite could hold it; half surrogates come from names of files that are no UTF-8."""
    try:
        video_id.encode()
    except UnicodeEncodeError:
        return False
    return True


def _values(record: VideoRecord) -> tuple[Any, ...]:
    values = [getattr(record, name) for name in _COLUMNS]
    values[_COLUMNS.index("times")] = json.dumps(record.times)
    return tuple(values)


def _record(found: Sequence[Any]) -> tuple[int, VideoRecord]:
    values = dict(zip(_COLUMNS, found[1:], strict=True))
    values["times"] = tuple(json.loads(values["times"]))
    return int(found[0]), VideoRecord(**values)
