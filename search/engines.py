"""Engines behind one interface: which rows may be among the best; the exact score decides (scoring.py).

D joint width, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from search.catalog import Catalog
from search.index_format import VideoIndexError
from search.rows import FeatureRows

ENGINES = ("faiss", "qdrant", "exact")
VIEWS = ("video", "sum")  # the vectors of a video that are searched: `FeatureRows.views`


class CandidateEngine(Protocol):
    """Finds rows whose vectors have a large inner product with a query."""

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """Rows [C], int64, for `query` [D]: the best `count` of each view; may hold removed rows."""
        ...

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        """Take up what was written since; False where it has to be opened anew."""
        ...

    def close(self) -> None: ...


class ExactEngine:
    """Every row is a candidate: exhaustive, needs no library, right for some thousand videos."""

    def __init__(self, features: FeatureRows, catalog: Catalog) -> None:
        self._rows = np.asarray(catalog.live_rows(), dtype=np.int64)

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        return self._rows

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        self._rows = np.asarray(catalog.live_rows(), dtype=np.int64)
        return True

    def close(self) -> None:
        """Nothing is held."""


def open_engine(
    name: str, folder: Path, features: FeatureRows, catalog: Catalog, options: dict[str, Any]
) -> CandidateEngine:
    """The engine `name` over an index, up to date with `features`.

    Raises `VideoIndexError` for an unknown name or a server that does not answer, `ImportError` saying what
    to install.
    """
    check_engine(name, options)
    if name == "exact":
        return ExactEngine(features, catalog)
    if name == "faiss":
        from search.faiss_engine import FaissEngine

        return FaissEngine.open(folder, features, catalog, options)
    from search.qdrant_engine import QdrantEngine

    return QdrantEngine.open(folder, features, catalog, options)


def check_engine(name: str, options: Mapping[str, Any]) -> None:
    """Raise, before hours of work, what `open_engine` would: an absent library, no url."""
    if name == "faiss":
        from search.faiss_engine import kind_for, load_faiss

        load_faiss()
        kind_for(0, str(options.get("kind", "auto")))
    elif name == "qdrant":
        from search.qdrant_engine import check_url, load_qdrant

        load_qdrant()
        check_url(options)
    elif name != "exact":
        raise VideoIndexError(f"engine {name!r}: choose from {', '.join(ENGINES)}")


def needs(package: str) -> ImportError:
    """The error for an absent library, with what to install."""
    return ImportError(f"this needs the package {package}: pip install -r requirements-search.txt")
