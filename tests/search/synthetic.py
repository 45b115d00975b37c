"""Index folders of made-up features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from search.index_format import IndexSettings, VideoRecord
from search.index_writer import IndexWriter

WIDTH, FRAMES = 32, 6
MODEL = {"hash": "synthetic", "path": ""}


def settings(**options: object) -> IndexSettings:
    return IndexSettings(model=MODEL, width=WIDTH, frames=FRAMES, **options)  # type: ignore[arg-type]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def features(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Video embeds [count, D] and frame embeds [count, F, D] that belong together."""
    rng = np.random.default_rng(seed)
    own = unit(rng.standard_normal((count, WIDTH)))
    frames = unit(own[:, None] + unit(rng.standard_normal((count, FRAMES, WIDTH))))
    video = unit(frames.mean(axis=1) + 0.3 * unit(rng.standard_normal((count, WIDTH))))
    return video.astype(np.float32), frames.astype(np.float32)


def record(name: str) -> VideoRecord:
    return VideoRecord(name, "made up", None, 1, 1, "", 6.0, tuple(float(i) for i in range(FRAMES)))


def fill(folder: Path, count: int, *, seed: int = 0, finish: bool = True, **options: object) -> Path:
    """Add videos "SEED-NUMBER" to the index in `folder`."""
    video, frames = features(count, seed=seed)
    with IndexWriter(folder, settings(**options)) as writer:
        writer.add_arrays([record(f"{seed}-{number}") for number in range(count)], video, frames)
        if finish:
            writer.finish()
    return folder
