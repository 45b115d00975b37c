"""Candidates from a Qdrant server, or from the client's local mode. For indexes larger than one memory.

R rows, D joint width. A point's id is its row, its named vectors are `FeatureRows.views`. Its payload has
`video_id`, `duration` and `source`, and `start` and `end` of a moment, by which other programs can filter.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, one_line
from search.catalog import Catalog
from search.index_format import VideoIndexError, missing_package
from search.rows import VIEWS, FeatureRows

CLIENT_PACKAGES = ("qdrant_client", "httpx", "httpcore", "grpc", "pydantic", "pydantic_core")
_BATCH = 256
_TIMEOUT = 60  # seconds of one request
_HASH_LETTERS = 12


def load_qdrant() -> Any:
    """The client's library. Raises `UserError` if it is not installed."""
    try:
        import qdrant_client
    except ImportError:
        raise missing_package("qdrant-client") from None
    return qdrant_client


def _is_clients(error: Exception) -> bool:
    """Whether the client or what lies under it raised `error`: no server, no permission, no disk.

    The local mode raises RuntimeError, as where another process uses its folder.
    """
    package = type(error).__module__.partition(".")[0]
    return package in CLIENT_PACKAGES or isinstance(error, OSError | RuntimeError)


class QdrantEngine:
    """A collection with the views of all videos of an index."""

    def __init__(self, client: Any, collection: str, *, generation: int, local: bool) -> None:
        self._client = client
        self.collection = collection
        self._generation = generation
        # The local mode must not be searched while points are added; a server takes care of that itself.
        self._exclusive: AbstractContextManager[Any] = threading.Lock() if local else nullcontext()

    @classmethod
    def open(
        cls, folder: Path, features: FeatureRows, catalog: Catalog, options: Mapping[str, Any]
    ) -> QdrantEngine:
        """The collection on the server `options["url"]`, brought up to date with the index.

        The url ":memory:", or a path, selects the client's local mode. Raises `VideoIndexError` if no server
        answers or no url is given.
        """
        url = check_url(options)
        generation = catalog.meta("generation")
        name = str(options.get("collection") or f"hmmc-{catalog.text('name')[:_HASH_LETTERS]}")
        client = _client(url, options.get("api_key"))
        engine = cls(client, f"{name}-{generation}", generation=generation, local=not _is_server(url))
        try:
            engine._sync(features, catalog)
        except Exception as error:
            engine.close()
            if isinstance(error, UserError) or not _is_clients(error):
                raise
            raise VideoIndexError(f"{url}: the Qdrant server cannot be used: {_line(error)}") from error
        return engine

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """The best `count` rows of each view, int64."""
        vector = query.astype(np.float32).tolist()
        rows: set[int] = set()
        for view in VIEWS:
            with self._exclusive:
                answer = self._client.query_points(
                    self.collection, query=vector, using=view, limit=count, with_payload=False
                )
            rows |= {int(point.id) for point in answer.points}
        return np.asarray(sorted(rows), dtype=np.int64)

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        """Send the rows that are new. False: rows were renumbered."""
        if catalog.meta("generation") != self._generation:
            return False
        with self._exclusive:
            self._sync(features, catalog)
        return True

    def close(self) -> None:
        """Close the connection; the collection stays."""
        self._client.close()

    def _sync(self, features: FeatureRows, catalog: Catalog) -> None:
        """Add points for new rows and delete those of removed rows."""
        self._make_collection(features.video.shape[1])
        rows = [row for row in catalog.live_rows() if row < features.rows]
        if self._is_current(rows):
            return
        in_index, on_server = set(rows), self._rows_on_server()
        removed = sorted(on_server - in_index)
        for start in range(0, len(removed), _BATCH):
            selector = load_qdrant().models.PointIdsList(points=removed[start : start + _BATCH])
            self._client.delete(self.collection, points_selector=selector, wait=True)
        new = sorted(in_index - on_server)
        for start in range(0, len(new), _BATCH):
            self._upload(new[start : start + _BATCH], features, catalog)

    def _is_current(self, rows: list[int]) -> bool:
        """Whether the server has exactly these rows. Rows are removed first, then added in order."""
        if self._client.count(self.collection, exact=True).count != len(rows):
            return False
        return not rows or bool(self._client.retrieve(self.collection, ids=rows[-1:], with_payload=False))

    def _make_collection(self, width: int) -> None:
        if self._client.collection_exists(self.collection):
            return
        models = load_qdrant().models
        # Inner product, not cosine: the length of "sum" is part of the score.
        vectors = {
            view: models.VectorParams(size=width, distance=models.Distance.DOT, on_disk=True)
            for view in VIEWS
        }
        self._client.create_collection(self.collection, vectors_config=vectors)

    def _rows_on_server(self) -> set[int]:
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
                    "video_id": records[row].record.video_id,
                    "duration": records[row].record.duration,
                    "source": records[row].record.source,
                    "start": records[row].start,
                    "end": records[row].end,
                },
            )
            for place, row in enumerate(rows)
            if row in records
        ]
        self._client.upsert(self.collection, points=points, wait=True)


def check_url(options: Mapping[str, Any]) -> str:
    """The url of the server. Raises `VideoIndexError` if `options` have none."""
    if not options.get("url"):
        raise VideoIndexError("engine qdrant: give --url, for example http://127.0.0.1:6333")
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
    return one_line(error)[:200] or type(error).__name__
