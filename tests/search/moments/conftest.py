"""A folder with a long video of coloured shots and a short one, and its index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search import Retriever, index_videos
from tests.search.conftest import _one_thread, checkpoint, coloured, retriever
from tests.video.fixtures import X264, write_video

__all__ = ["_one_thread", "checkpoint", "retriever"]

SHOTS = ((220, 30, 30), (20, 40, 220), (30, 200, 40), (220, 30, 30), (240, 230, 40))
SHOT_SECONDS = 6
EVERY, CUT_ABOVE = 8.0, 20.0
KEYS = {**X264, "g": "20", "keyint_min": "20"}
FPS = 5


def film(path: Path, *, shots: tuple[tuple[int, int, int], ...] = SHOTS, tail: int = 0) -> Path:
    """A video of one colour after another, `SHOT_SECONDS` each, 5 frames a second."""

    def picture(number: int) -> np.ndarray:
        colour = shots[min(number // (FPS * SHOT_SECONDS), len(shots) - 1)]
        return np.broadcast_to(np.array(colour, np.uint8), (48, 64, 3)).copy()

    frames = FPS * SHOT_SECONDS * len(shots) + tail
    return write_video(path, frames=frames, size=(64, 48), rate=FPS, picture=picture, options=KEYS)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    film(folder / "film.mp4")
    coloured(folder / "short.mp4", (128, 128, 128))
    return folder


@pytest.fixture(scope="session")
def cut_index(retriever: Retriever, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that change nothing."""
    index = tmp_path_factory.mktemp("cut") / "index"
    index_videos(
        retriever, index, video_dir=films, engine="exact", every=EVERY, cut_above=CUT_ABOVE, quiet=True
    )
    return index
