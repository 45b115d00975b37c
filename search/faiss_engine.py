"""Candidates by FAISS, in this process: flat up to 100,000 videos, IVF-PQ or HNSW above. Inner product.

R rows, D joint width. Entry i of a FAISS index is row i; the removed ones among them are dropped later.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import atomic_path, write_text
from common.errors import FileError
from search.catalog import Catalog
from search.index_format import ENGINE_FOLDER, FAISS_KINDS, VideoIndexError, missing_package
from search.rows import VIEWS, FeatureRows

FLAT_UP_TO = 100_000
_PQ_FROM = 256  # vectors that a code of 8 bits must be trained on
_BLOCK = 16_384
_LINKS, _BUILD_EFFORT, _SEARCH_EFFORT = 32, 80, 512  # HNSW
_SCANNED = 2_000_000  # codes of a view that a query is compared with: all lists are probed up to there
_CODED = 3  # codes are inexact: so many times the candidates that are wanted
_ROUNDS = 10  # of k-means
_TRAINED_ON = 64  # vectors a list that k-means looks at
_STATE = "state.json"


def load_faiss() -> Any:
    """The library. Raises `UserError` if it is not installed."""
    try:
        import faiss
    except ImportError:
        raise missing_package("faiss-cpu") from None
    return faiss


class FaissEngine:
    """FAISS indexes of the views of all rows, in memory; `save` keeps them in the index folder."""

    def __init__(self, indexes: Mapping[str, Any], *, kind: str, generation: int, name: str) -> None:
        self._indexes = dict(indexes)
        self.kind = kind
        self.generation = generation
        self._name = name  # of the catalogue: one that was made again has other videos in its rows
        self._lock = threading.Lock()  # FAISS may be searched by many threads, but not while it grows

    @classmethod
    def open(
        cls, folder: Path, features: FeatureRows, catalog: Catalog, options: Mapping[str, Any]
    ) -> FaissEngine:
        """What was saved, with the rows since added; or new, where nothing fits."""
        kind = kind_for(features.rows, str(options.get("kind", "auto")))
        generation = catalog.meta("generation")
        name = catalog.text("name")
        engine = cls._load(folder / ENGINE_FOLDER, kind=kind, generation=generation, name=name)
        if engine is None or engine.rows > features.rows or engine.width != features.video.shape[1]:
            engine = cls({}, kind=kind, generation=generation, name=name)
        engine._add(features)
        return engine

    @classmethod
    def _load(cls, folder: Path, *, kind: str, generation: int, name: str) -> FaissEngine | None:
        faiss = load_faiss()
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if (state.get("kind"), state.get("generation"), state.get("name")) != (kind, generation, name):
            return None
        try:
            indexes = {view: faiss.read_index(str(folder / state["files"][view])) for view in VIEWS}
        except (RuntimeError, KeyError):  # absent or cut off: it is made again from the features
            return None
        if len({index.ntotal for index in indexes.values()}) != 1:
            return None
        return cls(indexes, kind=kind, generation=generation, name=name)

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return int(self._indexes[VIEWS[0]].ntotal) if self._indexes else 0

    @property
    def width(self) -> int:
        return int(self._indexes[VIEWS[0]].d) if self._indexes else 0

    def _add(self, features: FeatureRows) -> None:
        if not self._indexes and features.rows:
            self._indexes = _new_indexes(features, self.kind)
        for start in range(self.rows, features.rows, _BLOCK):
            views = features.views(start, min(start + _BLOCK, features.rows))
            for view in VIEWS:
                self._indexes[view].add(np.ascontiguousarray(views[view]))
        if self.kind == "ivfpq":
            for index in self._indexes.values():
                index.nprobe = probes_for(self.rows, index.nlist)

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        """Add the rows since; False where rows were renumbered."""
        if catalog.meta("generation") != self.generation:
            return False
        with self._lock:
            self._add(features)
        return True

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """The best `count` rows of each view, int64."""
        wanted = min(count * (_CODED if self.kind == "ivfpq" else 1), self.rows)
        if not wanted:
            return np.zeros(0, dtype=np.int64)
        line = np.ascontiguousarray(query[None], dtype=np.float32)
        with self._lock:
            found = [self._indexes[view].search(line, wanted)[1][0] for view in VIEWS]
        rows = np.concatenate(found)
        return np.unique(rows[rows >= 0])

    def save(self, folder: Path) -> None:
        """Write to the index folder under new names, then point the state to them. Raises `OSError`."""
        if not self._indexes:
            return
        place = folder / ENGINE_FOLDER
        place.mkdir(exist_ok=True)
        files = {view: f"{view}-{self.generation}-{self.rows}-{self.kind}.index" for view in VIEWS}
        for view, name in files.items():
            _write_index(self._indexes[view], place / name)
        state = {
            "name": self._name,
            "kind": self.kind,
            "generation": self.generation,
            "rows": self.rows,
            "files": files,
        }
        write_text(place / _STATE, json.dumps(state) + "\n")
        for path in place.iterdir():
            if path.name not in (_STATE, *files.values()):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Free the memory."""
        self._indexes = {}


def kind_for(rows: int, kind: str) -> str:
    """The kind of index for so many rows: as asked, or by size. Raises `VideoIndexError` for others."""
    if kind not in FAISS_KINDS:
        raise VideoIndexError(f"--index_kind {kind}: choose from {', '.join(FAISS_KINDS)}")
    if kind == "auto":
        return "flat" if rows <= FLAT_UP_TO else "ivfpq"
    return "flat" if kind == "ivfpq" and rows < _PQ_FROM else kind


def _new_indexes(features: FeatureRows, kind: str) -> dict[str, Any]:
    faiss = load_faiss()
    width = features.video.shape[1]
    if kind == "flat":
        return {view: faiss.IndexFlatIP(width) for view in VIEWS}
    if kind == "hnsw":
        return {view: _hnsw(faiss, width) for view in VIEWS}
    sample = _sample(features, lists_for(features.rows) * _TRAINED_ON)
    return {view: _ivfpq(faiss, sample[view], lists_for(features.rows)) for view in VIEWS}


def _hnsw(faiss: Any, width: int) -> Any:
    index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILD_EFFORT
    index.hnsw.efSearch = _SEARCH_EFFORT
    return index


def lists_for(rows: int) -> int:
    """Lists of the inverted file: about the root of the rows, as a power of two, enough rows for each."""
    lists = 1
    while lists * lists <= rows and lists < 65_536:
        lists *= 2
    return max(1, min(lists, rows // 40))


def probes_for(rows: int, lists: int) -> int:
    """Lists that a query looks into: all, until scanning all codes takes too long.

    A query is not close to what it finds, which therefore lies in many lists: with 1 of 16 probed, of the
    synthetic videos of `benchmarks/search.py` less than half were found.
    """
    return max(8, lists * _SCANNED // max(rows, _SCANNED))


def _ivfpq(faiss: Any, sample: np.ndarray, lists: int) -> Any:
    width = sample.shape[1]
    parts = next(width // size for size in (4, 2, 1) if width % size == 0)
    coarse = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFPQ(coarse, width, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter = 1, _ROUNDS
    index.train(np.ascontiguousarray(sample))
    return index


def _sample(features: FeatureRows, most: int) -> dict[str, np.ndarray]:
    """The views of rows evenly spread over all, `most` at most, read in runs to spare the disk."""
    if features.rows <= most:
        return features.views(0, features.rows)
    run = 256
    starts = np.linspace(0, features.rows - run, max(1, most // run)).astype(np.int64)
    pieces = [features.views(int(start), int(start) + run) for start in starts]
    return {view: np.concatenate([piece[view] for piece in pieces]) for view in VIEWS}


def _write_index(index: Any, path: Path) -> None:
    """One FAISS index, atomically. Raises `FileError` where the disk is full."""
    with atomic_path(path, durable=True) as temporary:
        try:
            load_faiss().write_index(index, str(temporary))
        except RuntimeError as error:  # FAISS's word for a full disk
            raise FileError(
                f"{path}: cannot be written: {error}; searching works without it, slower"
            ) from None
