"""Folders of videos for the tests of tools/frame2lmdb.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.tools.store.builds import GOOD, arguments, contents
from tests.video.fixtures import write_video
from tools import frame2lmdb


@pytest.fixture
def lone_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")] + ["RANK", "WORLD_SIZE"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, frames in GOOD.items():
        write_video(folder / f"{name}.mp4", frames=frames)
    return folder


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """A folder of sixty videos, and the contents of its store, built in one go."""
    folder = tmp_path_factory.mktemp("many")
    source = write_video(folder / "v00.mp4", frames=120)
    for number in range(1, 60):
        shutil.copy(source, folder / f"v{number:02d}.mp4")
    store = tmp_path_factory.mktemp("whole")
    assert frame2lmdb.main(arguments(folder, store)) == 0
    return folder, contents(store)
