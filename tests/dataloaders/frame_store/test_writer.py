"""Writing frame stores: complete videos only, a map that grows, a compact result, one writer at a time."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

from dataloaders.frame_store.format import LOCK_FILE, FrameStoreWriteError
from dataloaders.frame_store.reader import FrameStore, FrameStoreError
from dataloaders.frame_store.writer import FrameStoreWriter, _cause

ROOT = Path(__file__).resolve().parents[3]


def contents(path: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return {bytes(key): bytes(value) for key, value in txn.cursor()}


def noise(number: int, size: int = 20_000) -> bytes:
    return random.Random(number).randbytes(size)


def test_records_and_counts(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path / "s", settings={"quality": 95}, expected=2) as writer:
        writer.put("a", [b"1", b"22"], record={"codec": "h264"})
        assert "a" in writer and "b" not in writer and writer.videos == 0
        writer.put("b", [memoryview(b"333")])
    store = FrameStore(tmp_path / "s")
    assert store.manifest("a") == {"codec": "h264", "frames": 2}
    (state,) = store.states()
    assert state is not None
    assert (state["videos"], state["frames"], state["complete"]) == (2, 3, True)
    assert state["settings"] == {"quality": 95}


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path / "s") as writer:
        writer.put("a", [b"1"])
        with pytest.raises(ValueError, match="'a': already in"):
            writer.put("a", [b"1"])
        with pytest.raises(ValueError, match="'b': no frames"):
            writer.put("b", [])
        with pytest.raises(ValueError, match="longer than"):
            writer.put("c" * 600, [b"1"])
    assert FrameStore(tmp_path / "s").states()[0]["videos"] == 1  # type: ignore[index]


def test_an_exception_leaves_the_store_incomplete(tmp_path: Path) -> None:
    with pytest.raises(KeyError), FrameStoreWriter(tmp_path / "s", expected=2) as writer:
        writer.put("a", [b"1"])
        writer.commit()
        writer.put("b", [b"1"])
        raise KeyError
    with pytest.raises(FrameStoreError, match="incomplete: 1 of 2"):
        FrameStore(tmp_path / "s")


def test_the_map_grows(tmp_path: Path) -> None:
    """A map of 2 MiB and 20 noisy clips (FR-12 a)."""
    with FrameStoreWriter(tmp_path / "s", map_size=2 << 20, batch_bytes=1 << 20) as writer:
        for video in range(20):
            writer.put(f"v{video}", [noise(video * 30 + index) for index in range(30)])
    store = FrameStore(tmp_path / "s")
    assert len(list(store.video_ids())) == 20
    assert store.read_jpegs("v19", [29]) == [noise(19 * 30 + 29)]


def test_a_finished_store_is_compact_and_others_may_read_it(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path / "s", batch_bytes=1) as writer:
        for video in range(300):
            writer.put(f"v{video}", [b"x" * 50])
    size = (tmp_path / "s" / "data.mdb").stat().st_size
    assert size < 40 * 4096  # copy-on-write has left as many free pages and more behind
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["data.mdb", "metadata.json"]
    assert FrameStore(tmp_path / "s").num_frames("v299") == 1


def test_a_finished_store_grows(tmp_path: Path) -> None:
    for video in ("a", "b"):
        with FrameStoreWriter(tmp_path / "s") as writer:
            writer.put(video, [b"1"])
    assert list(FrameStore(tmp_path / "s").video_ids()) == ["a", "b"]
    assert json.loads((tmp_path / "s" / "metadata.json").read_text(encoding="utf-8")) == {"length": 2}


def test_settings_are_not_mixed(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path / "s", settings={"quality": 95, "num_frames": 30}):
        pass
    with pytest.raises(FrameStoreError, match="other settings: quality 95 there, 75 now"):
        FrameStoreWriter(tmp_path / "s", settings={"quality": 75, "num_frames": 30})
    with FrameStoreWriter(tmp_path / "s", settings={"quality": 75}, overwrite=True) as writer:
        assert writer.videos == 0


def test_a_builder_killed_at_birth_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "data.mdb").touch()
    with pytest.raises(FrameStoreError, match="incomplete: nothing stored yet"):
        FrameStore(tmp_path / "s")
    (tmp_path / "s" / "data.mdb").unlink()
    lmdb.open(str(tmp_path / "s")).close()  # killed before the first record
    with pytest.raises(FrameStoreError, match="incomplete: nothing stored yet"):
        FrameStore(tmp_path / "s")
    with FrameStoreWriter(tmp_path / "s") as writer:
        writer.put("a", [b"1"])
    assert FrameStore(tmp_path / "s").num_frames("a") == 1


def test_published_stores_are_not_added_to(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "s")) as env, env.begin(write=True) as txn:
        txn.put(b"video0_0", b"x")
    with pytest.raises(FrameStoreError, match="no manifest"):
        FrameStoreWriter(tmp_path / "s")
    assert contents(tmp_path / "s") == {b"video0_0": b"x"}


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    open_it = "import sys; from dataloaders.frame_store.writer import FrameStoreWriter as W; W(sys.argv[1])"
    command = [sys.executable, "-c", open_it, str(tmp_path / "s")]
    with FrameStoreWriter(tmp_path / "s"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "is writing to it" in done.stderr
    assert not (tmp_path / "s" / LOCK_FILE).exists()
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 0


def test_a_full_disk_keeps_what_is_committed(tmp_path: Path) -> None:
    """A limit on the size of files acts like a full disk: LMDB's writes fail in the same way."""
    child = os.fork()
    if child == 0:
        code = 1
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
        try:
            with FrameStoreWriter(tmp_path / "s", expected=20, batch_bytes=1) as writer:
                for video in range(20):
                    writer.put(f"v{video}", [noise(video * 30 + index) for index in range(30)])
        except FrameStoreWriteError as error:
            said = str(error)
            code = (
                0 if "written to: " in said and "None" not in said and "stored so far are kept" in said else 2
            )
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(FrameStoreError, match="incomplete: [45] of 20"):
        FrameStore(tmp_path / "s")
    with FrameStoreWriter(tmp_path / "s", expected=20) as writer:
        for video in range(writer.videos, 20):
            writer.put(f"v{video}", [noise(video * 30 + index) for index in range(30)])
    store = FrameStore(tmp_path / "s")
    assert [store.read_jpegs(f"v{v}", [29]) for v in range(20)] == [[noise(v * 30 + 29)] for v in range(20)]


def test_a_write_that_is_cut_short_by_a_full_disk_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = lmdb.Error("mdb_txn_commit: Input/output error")
    assert "full" not in _cause(error, tmp_path, needed=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert _cause(error, tmp_path, needed=1).startswith("the disk is full (mdb_txn_commit")


def test_no_address_space_is_said(tmp_path: Path) -> None:
    write = (
        "import resource, sys; from dataloaders.frame_store.writer import FrameStoreWriter as W\n"
        "writer = W(sys.argv[1], batch_bytes=1)\n"
        "used = int(open('/proc/self/statm', encoding='utf-8').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20),) * 2)\n"
        "for video in range(200): writer.put(f'v{video}', [bytes(500_000)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", write, str(tmp_path / "s")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "FrameStoreWriteError" in done.stderr and "ulimit -v" in done.stderr
    with FrameStoreWriter(tmp_path / "s") as writer:
        assert writer.videos > 50


def _write_until_killed(path: Path, total: int) -> None:
    with FrameStoreWriter(path, expected=total, map_size=1 << 16, batch_bytes=30_000) as writer:
        for video in range(total):
            if f"v{video}" not in writer:
                writer.put(f"v{video}", [noise(video * 3 + index, 5000) for index in range(3)])


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL at 25 moments: the store always has complete videos only; the final result is the same."""
    total = 60
    started = time.monotonic()
    _write_until_killed(tmp_path / "whole", total)
    duration = time.monotonic() - started
    whole, path, chance = contents(tmp_path / "whole"), tmp_path / "s", random.Random(0)
    halfway = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for _ in range(25):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process on the spot
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, duration))
                _write_until_killed(path, total)
                os._exit(0)
            os.waitpid(child, 0)
            chance.random()  # the child's copy has gone on, this one must too
            stored = _check_whole_videos(path, whole)
            halfway += 0 < stored < total
            if stored == total:
                _finish_and_compare(path, whole, total)
    _finish_and_compare(path, whole, total)
    assert halfway


def _finish_and_compare(path: Path, whole: dict[bytes, bytes], total: int) -> None:
    _write_until_killed(path, total)
    assert contents(path) == whole
    shutil.rmtree(path)


def _check_whole_videos(path: Path, whole: dict[bytes, bytes]) -> int:
    if not (path / "data.mdb").exists() or not (path / "data.mdb").stat().st_size:
        return 0
    found = contents(path)
    state = json.loads(found.pop(b"\0store", b'{"videos": 0}'))
    videos = [key for key in found if key.startswith(b"\0video/")]
    assert state["videos"] == len(videos) and len(found) == 4 * len(videos)
    assert all(whole[key] == value for key, value in found.items())
    return len(videos)
