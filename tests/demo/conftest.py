"""A toy index of four videos that the demo serves, and clients of its API."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs requirements-search.txt")

from fastapi.testclient import TestClient

from demo.app import create_app
from demo.limits import Limits, Rate
from search import Retriever, VideoIndex, index_videos
from tests.search.conftest import COLOURS, _one_thread, checkpoint, coloured, retriever

__all__ = ["_one_thread", "checkpoint", "retriever"]

ODD_ID = "more/grey 100% #1? grüße 灰色.mp4"
FREE = Rate(1e9, 1_000_000)  # so high that only the tests of rates meet a limit
LIMITS = Limits(search_rate=FREE, other_rate=FREE)

MakeClient = Callable[..., TestClient]


@dataclasses.dataclass(frozen=True)
class Served:
    """An open index and the folder of its videos."""

    index: VideoIndex
    videos: Path
    folder: Path


@pytest.fixture(scope="session")
def served(retriever: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An index for tests that change no file."""
    with serve(retriever, tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def scratch(retriever: Retriever, tmp_path: Path) -> Iterator[Served]:
    """An index for one test, which may change its files."""
    with serve(retriever, tmp_path) as made:
        yield made


class serve:
    """A context with an index of four videos in `folder`."""

    def __init__(self, retriever: Retriever, folder: Path) -> None:
        self._retriever = retriever
        self._folder = folder

    def __enter__(self) -> Served:
        videos = self._folder / "videos"
        (videos / "more").mkdir(parents=True)
        for name, colour in COLOURS.items():
            coloured(videos / (ODD_ID if name == "grey" else f"{name}.mp4"), colour)
        index_videos(self._retriever, self._folder / "index", video_dir=videos, workers=1, engine="exact")
        self._index = VideoIndex(self._folder / "index")
        return Served(self._index, videos.resolve(), self._folder)

    def __exit__(self, *_: object) -> None:
        self._index.close()


@pytest.fixture(scope="session")
def client(served: Served, retriever: Retriever) -> Iterator[TestClient]:
    """A client of the API without rate limits."""
    with client_of(served, retriever, LIMITS) as made:
        yield made


def client_of(served: Served, retriever: Retriever, limits: Limits) -> TestClient:
    """A client of an app over `served`, to be used in a `with` statement."""
    app = create_app(served.index, retriever, limits)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
