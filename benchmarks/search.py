"""Searching 100,000 and 1,000,000 synthetic videos: recall against exhaustive scoring, time, size.

    python benchmarks/search.py --folder /scratch            100,000 videos, FAISS flat
    python benchmarks/search.py --folder /scratch --videos 1000000 --kind sq8    needs 14 GB of disk
    python benchmarks/search.py --folder /scratch --scale 0.01                     a hundredth

A video belongs to a topic and has scenes. Its frames are at distance `--spread` from their scenes (1: as much
noise as scene), and its video embed is near the mean of its frames. A query is a frame plus as much noise.
Recall: the share of queries whose ten best videos are all found, and the share of those videos that are
found. The ten best come from exhaustive scoring of the same files. D is 512; a video has 12 frames, and the
best 3 count.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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


def build(folder: Path, synthetic: Synthetic, *, videos: int, kind: str) -> tuple[float, float]:
    """Write an index; seconds of writing features and of building the engine."""
    settings = IndexSettings(
        model={"hash": "synthetic"}, width=WIDTH, frames=FRAMES, engine_options={"kind": kind}
    )
    written = 0.0
    with IndexWriter(folder, settings) as writer:
        for start in range(0, videos, BLOCK):
            count = min(BLOCK, videos - start)
            video, frames = synthetic.videos(count)
            records = [record(row) for row in range(start, start + count)]
            began = time.perf_counter()
            writer.add_arrays(records, video, frames)
            written += time.perf_counter() - began
        began = time.perf_counter()
        writer.finish()
    return written, time.perf_counter() - began


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


def report(folder: Path, synthetic: Synthetic, *, number: int, candidates: list[int]) -> None:
    began = time.perf_counter()
    with VideoIndex(folder) as index:
        queries = synthetic.queries(index.features, number)
        index.engine  # noqa: B018 (the engine is opened now, which is timed)
        opened = time.perf_counter() - began
        expected = [set(rows.tolist()) for rows in exhaustive(index.features, queries)]
        sizes = index.info()["files"]
        engine = sum(size for name, size in sizes.items() if name.endswith(".index"))
        say(f"on disk {sum(sizes.values()) / 1e9:.2f} GB, of it FAISS {engine / 1e6:.0f} MB; "
            f"opened in {opened:.1f} s")  # fmt: skip
        for count in candidates:
            found_rows, seconds = measure(index, queries, candidates=count)
            complete = np.mean([have == want for have, want in zip(found_rows, expected, strict=True)])
            places = np.mean(
                [len(have & want) / TOP for have, want in zip(found_rows, expected, strict=True)]
            )
            p50, p99 = np.percentile(seconds[0] * 1e3, [50, 99])
            cpu50, cpu99 = np.percentile(seconds[1] * 1e3, [50, 99])
            say(f"  2 x {count:4d} candidates: all ten found {complete:6.1%}, places {places:7.2%}, "
                f"p50 {p50:.0f} ms, p99 {p99:.0f} ms; of processors {cpu50:.0f}, {cpu99:.0f} ms")  # fmt: skip


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="scratch space; the index is removed at the end"
    )
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--kind", default="auto", choices=("auto", "flat", "sq8", "hnsw"))
    parser.add_argument("--spread", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the videos")
    arguments = parser.parse_args()
    videos = max(100, int(arguments.videos * arguments.scale))
    say(f"{videos:,} videos, {arguments.queries} queries, {platform.machine()}, {platform.processor()}")
    for spread in arguments.spread:
        folder = arguments.folder / f"search-benchmark-{videos}"
        shutil.rmtree(folder, ignore_errors=True)
        synthetic = Synthetic(spread=spread)
        try:
            written, built = build(folder, synthetic, videos=videos, kind=arguments.kind)
            say(f"spread {spread:g}, {arguments.kind}: features written in {written:.1f} s, "
                f"engine built in {built:.1f} s")  # fmt: skip
            report(folder, synthetic, number=arguments.queries, candidates=arguments.candidates)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
