"""Candidates from a Qdrant server, for indexes larger than one machine's memory (or from its local mode).

R rows, D joint width. A point a row, with the named vectors of `FeatureRows.views`; payload: `video_id`,
`duration`, `source`, by which a server can filter for others.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from search.catalog import Catalog
from search.engines import VIEWS, needs
from search.index_format import VideoIndexError
from search.rows import FeatureRows

_BATCH = 256
_TIMEOUT = 60  # seconds of one request
_HASH_LETTERS = 12


def load_qdrant() -> Any:
    """The client's library. Raises `ImportError` saying what to install."""
    try:
        import qdrant_client
    except ImportError:
        raise needs("qdrant-client") from None
    return qdrant_client


class QdrantEngine:
    """A collection with the views of all videos of an index."""

    def __init__(self, client: Any, collection: str, *, generation: int, local: bool) -> None:
        self._client = client
        self.collection = collection
        self._generation = generation
        # The client's local mode must not be searched while it grows; a server sees to that itself.
        self._alone: AbstractContextManager[Any] = threading.Lock() if local else nullcontext()

    @classmethod
    def open(
        cls, folder: Path, features: FeatureRows, catalog: Catalog, options: Mapping[str, Any]
    ) -> QdrantEngine:
        """The collection on the server `options["url"]`, brought up to date with the index.

        The url ":memory:", or a path, is the client's local mode. Raises `VideoIndexError` where no server
        answers, or no url is given.
        """
        url = check_url(options)
        generation = catalog.meta("generation")
        name = str(options.get("collection") or f"hmmc-{catalog.text('name')[:_HASH_LETTERS]}")
        client = _client(url, options.get("api_key"))
        engine = cls(client, f"{name}-{generation}", generation=generation, local=not _is_server(url))
        try:
            engine._sync(features, catalog)
        except Exception as error:  # the client raises many kinds: no server, no right, no disk
            engine.close()
            if isinstance(error, VideoIndexError | ImportError):
                raise
            raise VideoIndexError(f"{url}: the Qdrant server cannot be used: {_line(error)}") from error
        return engine

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """The best `count` rows of each view, int64."""
        vector = query.astype(np.float32).tolist()
        rows: set[int] = set()
        for view in VIEWS:
            with self._alone:
                answer = self._client.query_points(
                    self.collection, query=vector, using=view, limit=count, with_payload=False
                )
            rows |= {int(point.id) for point in answer.points}
        return np.asarray(sorted(rows), dtype=np.int64)

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        """Send the rows since; False where rows were renumbered."""
        if catalog.meta("generation") != self._generation:
            return False
        with self._alone:
            self._sync(features, catalog)
        return True

    def close(self) -> None:
        """Let go of the connection; the collection stays."""
        self._client.close()

    def _sync(self, features: FeatureRows, catalog: Catalog) -> None:
        """Make the points those of the index: new rows in, removed rows out."""
        self._make_collection(features.video.shape[1])
        rows = [row for row in catalog.live_rows() if row < features.rows]
        if self._is_current(rows):
            return
        here, there = set(rows), self._rows_there()
        gone = sorted(there - here)
        if gone:
            models = load_qdrant().models
            for start in range(0, len(gone), _BATCH):
                selector = models.PointIdsList(points=gone[start : start + _BATCH])
                self._client.delete(self.collection, points_selector=selector, wait=True)
        new = sorted(here - there)
        for start in range(0, len(new), _BATCH):
            self._upload(new[start : start + _BATCH], features, catalog)

    def _is_current(self, rows: list[int]) -> bool:
        """Whether the server has just these rows: removals come first, then new ones in order."""
        if self._client.count(self.collection, exact=True).count != len(rows):
            return False
        return not rows or bool(self._client.retrieve(self.collection, ids=rows[-1:], with_payload=False))

    def _make_collection(self, width: int) -> None:
        if self._client.collection_exists(self.collection):
            return
        models = load_qdrant().models
        # Plain inner product: the length of "sum" belongs to the score.
        vectors = {
            view: models.VectorParams(size=width, distance=models.Distance.DOT, on_disk=True)
            for view in VIEWS
        }
        self._client.create_collection(self.collection, vectors_config=vectors)

    def _rows_there(self) -> set[int]:
        rows: set[int] = set()
        offset = None
        while True:
            points, offset = self._client.scroll(
                self.collection, limit=10_000, offset=offset, with_payload=False, with_vectors=False
            )
            rows |= {int(point.id) for point in points}
            if offset is None:
                return rows

    def _upload(self, rows: list[int], features: FeatureRows, catalog: Catalog) -> None:
        models = load_qdrant().models
        views = features.views_of(np.asarray(rows))
        records = catalog.by_rows(rows)
        points = [
            models.PointStruct(
                id=row,
                vector={view: views[view][place].tolist() for view in VIEWS},
                payload={
                    "video_id": records[row].video_id,
                    "duration": records[row].duration,
                    "source": records[row].source,
                },
            )
            for place, row in enumerate(rows)
            if row in records
        ]
        self._client.upsert(self.collection, points=points, wait=True)


def check_url(options: Mapping[str, Any]) -> str:
    """Where the server is. Raises `VideoIndexError` where `options` do not tell."""
    if not options.get("url"):
        raise VideoIndexError("engine qdrant: give --url, as http://127.0.0.1:6333")
    return str(options["url"])


def _client(url: str, api_key: Any) -> Any:
    client = load_qdrant().QdrantClient
    if url == ":memory:":
        return client(location=":memory:")
    if _is_server(url):
        return client(url=url, api_key=api_key, timeout=_TIMEOUT, check_compatibility=False)
    return client(path=url)


def _is_server(url: str) -> bool:
    return "://" in url


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
