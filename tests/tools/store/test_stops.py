"""Signals, kills, crashes and full disks: the builder can always continue, and no stored video is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataloaders.frame_store.reader import FrameStore, FrameStoreError
from tests.tools.store.builds import TOOL, arguments, contents, failures, quote, start
from tools import frame2lmdb

pytestmark = pytest.mark.usefixtures("lone_process")


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_it_cleanly(
    number: signal.Signals, many: tuple[Path, dict[bytes, bytes]], tmp_path: Path
) -> None:
    folder, whole = many
    store = tmp_path / "s"
    process = start(*arguments(folder, store), dawdles="0.1")
    wait_for(lambda: count(store) > 2)
    for _ in range(2):  # as Slurm does, and to all processes of the job
        helpers = children(process.pid)
        for pid in [process.pid, *helpers, *(worker for helper in helpers for worker in children(helper))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert not failures(store)
    assert "the same command continues from here" in said and "Traceback" not in said
    with pytest.raises(FrameStoreError, match=r"incomplete: \d+ of 60"):
        FrameStore(store)
    assert frame2lmdb.main(arguments(folder, store)) == 0
    assert contents(store) == whole


KILLS = int(os.environ.get("HMMC_TEST_KILLS", "3"))


def test_kills_lose_nothing(many: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    """SIGKILL at random moments (FR-19): refused while unfinished; at the end the same keys and bytes.

    HMMC_TEST_KILLS sets how many. Whenever a run gets through, the store is compared and begun anew.
    """
    folder, whole = many
    store, chance, halfway = tmp_path / "s", random.Random(1), 0
    duration = undisturbed(folder, store)
    for _ in range(KILLS):
        process = start(*arguments(folder, store), dawdles="0.01")
        time.sleep(chance.uniform(0.3, 1.0) * duration)
        process.kill()
        process.communicate()
        stored = check_whole_videos(store)
        halfway += 0 < stored < 60
        if stored == 60:
            finish_and_compare(folder, store, whole)
    finish_and_compare(folder, store, whole)
    sys.stdout.write(f"{KILLS} kills, {halfway} of them with part of the videos stored\n")


def undisturbed(folder: Path, store: Path) -> float:
    began = time.monotonic()
    start(*arguments(folder, store), dawdles="0.01").communicate(timeout=60)
    shutil.rmtree(store)
    return time.monotonic() - began


def count(store: Path) -> int:
    if not (store / "data.mdb").exists() or not (store / "data.mdb").stat().st_size:
        return 0
    state = json.loads(contents(store).get(b"\0store", b'{"videos": 0}'))
    return int(state["videos"])


def check_whole_videos(store: Path) -> int:
    """The number of stored videos; none of them is incomplete, and readers refuse the store."""
    if not (store / "data.mdb").exists() or not (store / "data.mdb").stat().st_size:
        return 0
    found = contents(store)
    state = json.loads(found.pop(b"\0store", b'{"videos": 0}'))
    assert sum(key.startswith(b"\0video/") for key in found) == state["videos"]
    assert len(found) == 31 * state["videos"]
    if state.get("complete") is False:
        with pytest.raises(FrameStoreError, match="incomplete: "):
            FrameStore(store)
    return int(state["videos"])


def finish_and_compare(folder: Path, store: Path, whole: dict[bytes, bytes]) -> None:
    assert frame2lmdb.main(arguments(folder, store)) == 0
    assert contents(store) == whole
    shutil.rmtree(store)


def test_a_killed_worker_costs_nothing(many: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    """SIGKILL to a worker of four (FR-09): the command ends, and the video is tried again."""
    folder, whole = many
    process = start(*arguments(folder, tmp_path / "s", "--num_workers", "4"), dawdles="0.05")
    workers: list[int] = []

    def found() -> bool:
        workers[:] = [pid for child in children(process.pid) for pid in children(child)] or []
        return len(workers) >= 4

    wait_for(found)
    time.sleep(0.3)
    os.kill(workers[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert contents(tmp_path / "s") == whole


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def test_crashes_and_endless_loops_cost_one_video(videos: Path, tmp_path: Path) -> None:
    """A decoder that crashes or loops for one id (X-01): that id is named, the others are stored."""
    process = start(*arguments(videos, tmp_path / "s", "--timeout", "2"), dies="a", loops="e")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert failures(tmp_path / "s") == {"a": "crashed", "e": "timeout"}
    assert set(FrameStore(tmp_path / "s").video_ids()) == {"-b.c_1", "视频 d"}


def test_it_works_in_little_address_space_and_with_a_small_map(videos: Path, tmp_path: Path) -> None:
    """`ulimit -v` of about 8 GB, and a first map of 64 kB (FR-12)."""
    line = f'ulimit -v 8000000; exec {" ".join(map(quote, TOOL))} "$@"'
    argv = arguments(videos, tmp_path / "s", "--map_size", "65536")
    done = subprocess.run(["bash", "-c", line, "bash", *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(FrameStore(tmp_path / "s").video_ids())) == 4


def test_a_full_disk_is_said_and_survived(many: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    """A limit on the size of files acts like a full disk."""
    folder, whole = many
    line = f'ulimit -f 1000; exec {" ".join(map(quote, TOOL))} "$@"'
    argv = arguments(folder, tmp_path / "s")
    done = subprocess.run(["bash", "-c", line, "bash", *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "stored so far are kept" in done.stderr and "Traceback" not in done.stderr
    assert frame2lmdb.main(argv) == 0
    assert contents(tmp_path / "s") == whole
