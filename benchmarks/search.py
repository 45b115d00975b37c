"""Searching 100,000 and 1,000,000 synthetic videos: recall against exhaustive scoring, time, size.

    python benchmarks/search.py --folder /scratch            100,000 videos: exact, FAISS flat and sq8
    python benchmarks/search.py --folder /scratch --videos 1000000 --kind pq4    needs 14 GB of disk
    python benchmarks/search.py --folder /scratch --scale 0.01                     a hundredth

A video belongs to a topic and has scenes. Its frames are at distance `--spread` from their scenes (1: as much
noise as scene), and its video embed is near the mean of its frames. A query is a frame plus as much noise.
Recall: the share of queries whose ten best videos are all found, and the share of those videos that are
found. The ten best come from exhaustive scoring of the same files in single precision. "exact" is the engine
that scores all videos. D is 512; a video has 12 frames, and the best 3 count. Each line of results is over
the queries of all --seeds, each with videos of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from search.engines import ExactEngine
from search.engines.faiss_engine import PQ4_MORE, FaissEngine
from search.index_folder import VideoIndex
from search.index_format import IndexSettings, VideoRecord
from search.index_writer import IndexWriter
from search.rows import FeatureRows, float32
from search.searching import find

WIDTH, FRAMES, SCENES, TOP_FRAMES, TOP = 512, 12, 3, 3, 10
TOPICS = 5_000
BANK = 100_000
BLOCK = 4_096


class Synthetic:
    """Makes synthetic videos and queries."""

    def __init__(self, *, spread: float, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._spread = spread
        self._bank = unit(self._rng.standard_normal((BANK, WIDTH), dtype=np.float32))
        self._topics = self._directions(TOPICS)

    def _directions(self, *shape: int) -> np.ndarray:
        """Random unit vectors from a bank: drawing billions of new numbers would take most of the time."""
        return self._bank[self._rng.integers(0, BANK, shape)]

    def videos(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Video embeds [count, D] and frame embeds [count, F, D]."""
        topic = self._topics[self._rng.integers(0, TOPICS, count)]
        center = topic + self._directions(count)
        scenes = unit(center)[:, None] + 0.7 * self._directions(count, SCENES)
        scenes = np.repeat(unit(scenes), FRAMES // SCENES, axis=1)
        frames = unit(scenes + self._spread * self._directions(count, FRAMES))
        return unit(unit(frames.mean(axis=1)) + 0.5 * self._directions(count)), frames

    def queries(self, features: FeatureRows, count: int) -> np.ndarray:
        """[count, D]: frames of random videos, each with as much noise."""
        rows = np.sort(self._rng.integers(0, features.rows, count))
        frames = features.frames[rows, self._rng.integers(0, FRAMES, count)].astype(np.float32)
        return unit(frames + self._directions(count))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def build(folder: Path, synthetic: Synthetic, *, videos: int) -> float:
    """Write an index without an engine; the seconds that it took."""
    settings = IndexSettings(model={"hash": "synthetic"}, width=WIDTH, frames=FRAMES, engine="exact")
    written = 0.0
    with IndexWriter(folder, settings) as writer:
        for start in range(0, videos, BLOCK):
            count = min(BLOCK, videos - start)
            video, frames = synthetic.videos(count)
            records = [record(row) for row in range(start, start + count)]
            began = time.perf_counter()
            writer.add_arrays(records, video, frames)
            written += time.perf_counter() - began
    return written


def record(row: int) -> VideoRecord:
    times = tuple(float(frame) for frame in range(FRAMES))
    return VideoRecord(f"video{row:07d}.mp4", "synthetic", None, 0, 0, "", float(FRAMES), times)


def exhaustive(features: FeatureRows, queries: np.ndarray) -> np.ndarray:
    """The ten best rows [queries, 10] by scoring every video."""
    best = np.full((len(queries), TOP), -np.inf, np.float32)
    rows = np.zeros((len(queries), TOP), np.int64)
    for start in range(0, features.rows, BLOCK):
        video = float32(features.video[start : start + BLOCK])
        frames = float32(features.frames[start : start + BLOCK])
        each = (frames.reshape(-1, WIDTH) @ queries.T).reshape(len(video), FRAMES, -1)
        score = video @ queries.T + np.partition(each, FRAMES - TOP_FRAMES, axis=1)[:, -TOP_FRAMES:].mean(1)
        joined = np.concatenate([best, score.T], axis=1)
        places = np.concatenate(
            [rows, np.broadcast_to(np.arange(start, start + len(video)), score.T.shape)], axis=1
        )
        order = np.argpartition(-joined, TOP - 1, axis=1)[:, :TOP]
        best, rows = np.take_along_axis(joined, order, 1), np.take_along_axis(places, order, 1)
    return rows


def measure(index: VideoIndex, queries: np.ndarray, *, candidates: int) -> tuple[list[set[int]], np.ndarray]:
    """The rows found for each query, and seconds [2, queries]: elapsed time and processor time."""
    found_rows, seconds = [], []
    options = {"top": TOP, "top_frames": TOP_FRAMES, "frame_weight": 1.0, "candidates": candidates}
    for query in queries:
        began, worked = time.perf_counter(), time.process_time()
        hits = find(index, query, **options)  # type: ignore[arg-type]
        seconds.append((time.perf_counter() - began, time.process_time() - worked))
        found_rows.append({int(hit.video_id[5:12]) for hit in hits})
    return found_rows, np.asarray(seconds).T


def proposed(engine: FaissEngine, queries: np.ndarray, *, candidates: list[int]) -> list[list[set[int]]]:
    """The candidates of each query for each number of them. Many queries at once are faster."""
    more = PQ4_MORE if engine.kind == "pq4" else 1
    candidates = [more * count for count in candidates]
    nearest = [index.search(queries, max(candidates))[1] for index in engine._indexes.values()]
    return [
        [
            set(np.concatenate([rows[:count] for rows in views]).tolist())
            for views in zip(*nearest, strict=True)
        ]
        for count in candidates
    ]


class Tally:
    """Recall and times of one engine and number of candidates, over all seeds."""

    def __init__(self) -> None:
        self._hits: list[int] = []
        self._seconds: list[np.ndarray] = []

    def add(self, found: list[set[int]], expected: list[set[int]], seconds: np.ndarray) -> None:
        """`found`: rows of each query, which may be candidates: all of these are scored exactly."""
        self._hits += [len(have & want) for have, want in zip(found, expected, strict=True)]
        self._seconds.append(seconds)

    def __str__(self) -> str:
        hits = np.asarray(self._hits)
        wall, worked = np.concatenate(self._seconds, axis=1) * 1e3
        p50, p99 = np.percentile(wall, [50, 99])
        own50, own99 = np.percentile(worked, [50, 99])
        return (
            f"{len(hits)} queries: all ten found {np.mean(hits == TOP):.1%}, places {hits.mean() / TOP:.2%}; "
            f"{len(wall)} timed: p50 {p50:.0f} ms, p99 {p99:.0f} ms, of processors p50 {own50:.0f} ms, p99 "
            f"{own99:.0f} ms"
        )


def open_engine(index: VideoIndex, kind: str) -> ExactEngine | FaissEngine:
    """Make `kind` the engine of the open index, without saving it."""
    began = time.perf_counter()
    engine: ExactEngine | FaissEngine
    if kind == "exact":
        engine = ExactEngine(index.features, index.catalog)
    else:
        engine = FaissEngine.open(Path("/nonexistent"), index.features, index.catalog, {"kind": kind})
    index._engine = engine
    say(f"  {kind} made in {time.perf_counter() - began:.1f} s")
    return engine


def run_seed(
    folder: Path, tallies: dict[tuple[str, int], Tally], *, arguments: argparse.Namespace, videos: int,
    spread: float, seed: int,
) -> None:  # fmt: skip
    """Make videos and queries of one seed, and add what every engine finds to `tallies`."""
    synthetic = Synthetic(spread=spread, seed=seed)
    written = build(folder, synthetic, videos=videos)
    with VideoIndex(folder) as index:
        size = index.info()["bytes"] / 1e9
        say(f"spread {spread:g}, seed {seed}: written in {written:.1f} s, {size:.2f} GB")
        queries = synthetic.queries(index.features, arguments.queries)
        expected = [set(rows.tolist()) for rows in exhaustive(index.features, queries)]
        for kind in arguments.kind:
            engine = open_engine(index, kind)
            measure(index, queries[:1], candidates=100)
            if isinstance(engine, ExactEngine):
                found, seconds = measure(index, queries, candidates=0)
                tallies.setdefault((kind, 0), Tally()).add(found, expected, seconds)
                continue
            counts = arguments.candidates
            for count, found in zip(counts, proposed(engine, queries, candidates=counts), strict=True):
                _, seconds = measure(index, queries[: arguments.timed], candidates=count)
                tallies.setdefault((kind, count), Tally()).add(found, expected, seconds)
            engine.close()


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="scratch space; the index is removed at the end")
    add("--videos", type=int, default=100_000)
    kinds = ("exact", "flat", "sq8", "pq4", "hnsw")
    add("--kind", default=["exact", "flat", "sq8"], choices=kinds, nargs="+")
    add("--spread", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    add("--queries", type=int, default=200)
    add("--timed", type=int, default=40, help="queries of FAISS that are timed")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--candidates", type=int, nargs="+", default=[100, 400, 1200, 2400])
    add("--scale", type=float, default=1.0, help="share of the videos")
    arguments = parser.parse_args()
    videos = max(100, int(arguments.videos * arguments.scale))
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    say(f"{videos:,} videos, {arguments.queries} queries, {platform.machine()}, {cores}")
    for spread in arguments.spread:
        tallies: dict[tuple[str, int], Tally] = {}
        for seed in arguments.seeds:
            folder = arguments.folder / f"search-benchmark-{videos}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                run_seed(folder, tallies, arguments=arguments, videos=videos, spread=spread, seed=seed)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            for (kind, count), tally in tallies.items():
                candidates = "all videos" if kind == "exact" else f"2 x {count} candidates"
                say(f"  {videos:,}, spread {spread:g}, {kind}, {candidates}: {tally}")


if __name__ == "__main__":
    main()
