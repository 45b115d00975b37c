"""The table of moments in the catalogue: a row of features for each, and the first row of its video."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from search.index_format import Span

TABLE = """
CREATE TABLE IF NOT EXISTS moments (
    row INTEGER PRIMARY KEY, video INTEGER NOT NULL, start REAL NOT NULL, "end" REAL NOT NULL,
    times TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS moments_by_video ON moments (video);
"""
_FEW = 500  # values in one statement: older SQLite takes at most 999
_SPAN = 'start, "end", times'


class SpanTable:
    """`read` runs a statement and returns its rows; `db` is the connection for writing, in a transaction."""

    def __init__(self, db: sqlite3.Connection, read: Callable[..., list[tuple[Any, ...]]]) -> None:
        self._db = db
        self._read = read
        # Catalogues of former versions have no such table.
        self.exists = bool(read("SELECT 1 FROM sqlite_master WHERE name = 'moments'"))

    def by_rows(self, rows: Sequence[int]) -> dict[int, tuple[int, Span]]:
        """(first row of the video, moment) of those of `rows` that hold a moment."""
        if not self.exists:
            return {}
        chosen = f"SELECT row, video, {_SPAN} FROM moments WHERE row IN"
        found = (self._read(f"{chosen} ({marks})", part) for marks, part in in_parts(rows))
        return {row: (video, _span(*rest)) for part in found for row, video, *rest in part}

    def of_video(self, row: int) -> list[Span]:
        """The moments of the video whose first row is `row`, in order; none if it is not cut."""
        if not self.exists:
            return []
        return [
            _span(*values)
            for values in self._read(f"SELECT {_SPAN} FROM moments WHERE video = ? ORDER BY row", (row,))
        ]

    def rows_of(self, row: int) -> range:
        """All rows of the video whose first one is `row`."""
        counted = "SELECT count(*) FROM moments WHERE video = ?"
        return range(row, row + max(1, int(self._read(counted, (row,))[0][0]) if self.exists else 1))

    def counts(self) -> tuple[int, int]:
        """The number of moments, and of the videos that they are of."""
        if not self.exists:
            return 0, 0
        moments, videos = self._read("SELECT count(*), count(DISTINCT video) FROM moments")[0]
        return int(moments), int(videos)

    def put(self, row: int, spans: Sequence[Span]) -> None:
        """Store the moments of the video whose first row is `row`."""
        self._db.executemany(
            "INSERT INTO moments VALUES (?, ?, ?, ?, ?)",
            [
                (row + number, row, span.start, span.end, json.dumps(span.times))
                for number, span in enumerate(spans)
            ],
        )

    def remove(self, row: int) -> None:
        """Remove the moments of the video whose first row is `row`."""
        self._db.execute("DELETE FROM moments WHERE video = ?", (row,))

    def renumber(self, old: int, new: int) -> None:
        """Row `old` becomes row `new`."""
        self._db.execute("UPDATE moments SET row = ? WHERE row = ?", (new, old))
        self._db.execute("UPDATE moments SET video = ? WHERE video = ?", (new, old))


def in_parts(rows: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """`rows` in parts that one statement takes, with as many question marks."""
    for start in range(0, len(rows), _FEW):
        part = [int(row) for row in rows[start : start + _FEW]]
        yield ",".join("?" * len(part)), part


def _span(start: float, end: float, times: str) -> Span:
    return Span(start, end, tuple(json.loads(times)))
