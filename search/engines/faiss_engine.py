"""Candidates by FAISS in this process, by inner product: flat up to 100,000 rows, then 8-bit and 4-bit codes.

R rows, D joint width. Entry i of a FAISS index is row i; removed rows are dropped from the results later.
All but "hnsw" compare the query with every row. An inverted file would not save time: the videos that match a
query are spread over all regions, so nearly all lists would have to be searched. "pq4" is product
quantization with 4 bits for every two dimensions, compared in registers (André et al. 2015): an eighth of the
time of 8-bit codes, and twice as many candidates make up for its coarser scores.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import atomic_path, write_text
from common.errors import FileError, file_errors
from search.catalog import Catalog
from search.index_format import ENGINE_FOLDER, FAISS_KINDS, VideoIndexError, missing_package
from search.rows import VIEWS, FeatureRows

FLAT_UP_TO = 100_000
SQ8_UP_TO = 200_000
PQ4_MORE = 2  # times as many candidates
_BLOCK = 16_384
_LINKS, _BUILD_EFFORT, _SEARCH_EFFORT = 32, 80, 512  # HNSW
_MIN_TRAINING_ROWS = {"sq8": 256, "pq4": 1024}  # below these, codes are not worth it
_MAX_TRAINING_ROWS = 16_384  # vectors that codes are learned from
_MARGIN = 0.1  # added to that range, as a share of it
_STATE = "state.json"
_WHOLE = ("hnsw", "pq4")  # a graph, or a table of a whole block, cannot be searched in parts


def load_faiss() -> Any:
    """The library. Raises `UserError` if it is not installed."""
    try:
        import faiss
    except ImportError:
        raise missing_package("faiss-cpu") from None
    return faiss


class FaissEngine:
    """FAISS indexes of the views of all rows, in memory; `save` writes them to the index folder."""

    def __init__(self, indexes: Mapping[str, Any], *, kind: str, generation: int, name: str) -> None:
        self._indexes = dict(indexes)
        self.kind = kind
        self.generation = generation
        self._name = name  # of the catalogue: a new catalogue has other videos in its rows
        self._lock = threading.Lock()  # threads may search FAISS at the same time, but not while it grows
        # FAISS searches for one query on one thread, so each thread searches a part of the rows.
        self._threads = max(1, load_faiss().omp_get_max_threads())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="faiss")

    @classmethod
    def open(
        cls, folder: Path, features: FeatureRows, catalog: Catalog, options: Mapping[str, Any]
    ) -> FaissEngine:
        """The saved indexes plus the rows that came later; new ones if no saved index fits."""
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
        except (OSError, ValueError):  # absent or broken: the indexes are made again from the features
            return None
        if not isinstance(state, dict):
            return None
        if (state.get("kind"), state.get("generation"), state.get("name")) != (kind, generation, name):
            return None
        try:
            indexes = {view: faiss.read_index(str(folder / state["files"][view])) for view in VIEWS}
        except (RuntimeError, KeyError, TypeError):  # FAISS's error for a file that is absent or cut off
            return None
        if len({index.ntotal for index in indexes.values()}) != 1:
            return None
        return cls(indexes, kind=kind, generation=generation, name=name)

    @property
    def rows(self) -> int:
        """The number of rows in each index."""
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

    def update(self, features: FeatureRows, catalog: Catalog) -> bool:
        """Add the rows that are new. False: rows were renumbered."""
        if catalog.meta("generation") != self.generation:
            return False
        with self._lock:
            self._add(features)
        return True

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """The best `count` rows of each view, int64."""
        wanted = min(count * (PQ4_MORE if self.kind == "pq4" else 1), self.rows)
        if not wanted:
            return np.zeros(0, dtype=np.int64)
        line = np.ascontiguousarray(query[None], dtype=np.float32)
        with self._lock:
            if self.kind in _WHOLE:
                nearest = list(self._pool.map(lambda view: self._nearest(view, line, wanted), VIEWS))
            else:
                nearest = [self._nearest(view, line, wanted) for view in VIEWS]
        return np.unique(np.concatenate(nearest))

    def _nearest(self, view: str, line: np.ndarray, wanted: int) -> np.ndarray:
        """The best `wanted` rows of one view, for `line` [1, D]."""
        index = self._indexes[view]
        if self.kind in _WHOLE:
            rows = index.search(line, wanted)[1][0]
            return np.asarray(rows[rows >= 0])
        ends = np.linspace(0, self.rows, self._threads + 1).astype(int).tolist()
        found = list(self._pool.map(lambda ends: _search_part(index, line, wanted, *ends), pairwise(ends)))
        scores, rows = (np.concatenate(part) for part in zip(*found, strict=True))
        best = np.argpartition(-scores, min(wanted, len(rows)) - 1)[:wanted]
        return np.asarray(rows[best])

    def save(self, folder: Path) -> None:
        """Write the indexes under new names, then the state that names them. Raises `FileError`."""
        if not self._indexes:
            return
        place = folder / ENGINE_FOLDER
        with file_errors(place, "cannot be made"):
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
        self._pool.shutdown()


def kind_for(rows: int, kind: str) -> str:
    """The kind of FAISS index for `rows`: `kind`, or by size. Raises `VideoIndexError` for unknown kinds."""
    if kind == "ivfpq":  # in the settings of older indexes; "sq8" finds more and needs no k-means
        kind = "sq8"
    if kind not in FAISS_KINDS:
        raise VideoIndexError(f"--index_kind {kind}: choose from {', '.join(FAISS_KINDS)}")
    if kind == "auto":
        return "flat" if rows <= FLAT_UP_TO else "sq8" if rows <= SQ8_UP_TO else "pq4"
    return "flat" if rows < _MIN_TRAINING_ROWS.get(kind, 0) else kind


def _search_part(
    index: Any, line: np.ndarray, wanted: int, first: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, rows) of the best `wanted` of the rows `first` to `end - 1`, for `line` [1, D]."""
    faiss = load_faiss()
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, end))
    scores, rows = index.search(line, min(wanted, max(1, end - first)), params=chosen)
    return scores[0][rows[0] >= 0], rows[0][rows[0] >= 0]


def _new_indexes(features: FeatureRows, kind: str) -> dict[str, Any]:
    faiss = load_faiss()
    width = features.video.shape[1]
    if kind == "flat":
        return {view: faiss.IndexFlatIP(width) for view in VIEWS}
    if kind == "hnsw":
        return {view: _hnsw(faiss, width) for view in VIEWS}
    rows = np.linspace(0, features.rows - 1, min(features.rows, _MAX_TRAINING_ROWS)).astype(np.int64)
    sample = features.views_of(rows)
    make = _pq4 if kind == "pq4" and width % 2 == 0 else _sq8
    return {view: make(faiss, np.ascontiguousarray(sample[view])) for view in VIEWS}


def _hnsw(faiss: Any, width: int) -> Any:
    index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILD_EFFORT
    index.hnsw.efSearch = _SEARCH_EFFORT
    return index


def _sq8(faiss: Any, sample: np.ndarray) -> Any:
    """8 bits a dimension, from the smallest to the largest value in `sample` [n, D] and a margin."""
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexScalarQuantizer(sample.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.sq.rangestat_arg = _MARGIN
    index.train(sample)
    return index


def _pq4(faiss: Any, sample: np.ndarray) -> Any:
    """4 bits for every two dimensions, learned from `sample` [n, D]."""
    width = sample.shape[1]
    index = faiss.IndexPQFastScan(width, width // 2, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(sample)
    return index


def _write_index(index: Any, path: Path) -> None:
    """Write one FAISS index atomically. Raises `FileError` if the disk is full."""
    with atomic_path(path, durable=True) as temporary:
        try:
            load_faiss().write_index(index, str(temporary))
        except RuntimeError as error:  # FAISS's error for a full disk
            raise FileError(
                f"{path}: cannot be written: {error}; searching works without it, slower"
            ) from None
