"""Engines propose candidates behind one interface; the exact score decides (scoring.py).

Up to `SCORE_ALL_UP_TO` videos, scoring all of them takes no longer than proposing candidates and scoring
those, so FAISS is used above that only, or where --index_kind asks for it.

D joint width, C candidates. An engine's module is imported when the engine is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from search.catalog import Catalog
from search.index_format import ENGINES, VideoIndexError
from search.rows import FeatureRows

SCORE_ALL_UP_TO = 10_000


class CandidateEngine(Protocol):
    """Finds rows whose vectors have a large inner product with a query."""

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """Rows [C], int64, for `query` [D]: the best `count` of each view. Removed rows may be among them."""
        ...

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        """Add what was written since the last call. False: the engine has to be opened again."""
        ...

    def close(self) -> None: ...


class ExactEngine:
    """Every row is a candidate. Needs no library."""

    def __init__(self, features: FeatureRows, catalog: Catalog, *, up_to: int | None = None) -> None:
        """`up_to`: rows above which another engine has to take over."""
        self._rows = np.asarray(catalog.live_rows(), dtype=np.int64)
        self._up_to = up_to

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        return self._rows

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        self._rows = np.asarray(catalog.live_rows(), dtype=np.int64)
        return self._up_to is None or features.rows <= self._up_to

    def close(self) -> None:
        """Nothing is open."""


def open_engine(
    name: str, folder: Path, features: FeatureRows, catalog: Catalog, options: dict[str, Any]
) -> CandidateEngine:
    """The engine `name` of an index, up to date with `features`.

    Raises `VideoIndexError` for an unknown name or a server that does not answer, and `UserError` if the
    engine's library is not installed.
    """
    if name == "faiss" and _scores_all(features.rows, options):
        return ExactEngine(features, catalog, up_to=SCORE_ALL_UP_TO)
    check_engine(name, options)
    if name == "faiss":
        from search.engines.faiss_engine import FaissEngine

        return FaissEngine.open(folder, features, catalog, options)
    if name == "qdrant":
        from search.engines.qdrant_engine import QdrantEngine

        return QdrantEngine.open(folder, features, catalog, options)
    return ExactEngine(features, catalog)


def _scores_all(rows: int, options: Mapping[str, Any]) -> bool:
    return str(options.get("kind", "auto")) == "auto" and rows <= SCORE_ALL_UP_TO


def check_engine(name: str, options: Mapping[str, Any]) -> None:
    """Raise now, before hours of work, the errors of `open_engine`: a missing library, no url."""
    if name == "faiss":
        from search.engines.faiss_engine import kind_for, load_faiss

        load_faiss()
        kind_for(0, str(options.get("kind", "auto")))
    elif name == "qdrant":
        from search.engines.qdrant_engine import check_url, load_qdrant

        load_qdrant()
        check_url(options)
    elif name not in ENGINES:
        raise VideoIndexError(f"engine {name!r}: choose from {', '.join(ENGINES)}")
