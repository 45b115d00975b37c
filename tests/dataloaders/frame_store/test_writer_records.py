"""What the writer of a frame store keeps: its state record, when it commits, and the size of its file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import pytest

from common.errors import FileError
from dataloaders.frame_store.format import STATE_KEY, to_json
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter, _cause
from tests.dataloaders.frame_store.test_writer import contents

PICTURE = b"x" * 100
VIDEO_BYTES = len(PICTURE) + len(to_json({"frames": 1}))  # of a video with this one frame


def state_of(path: Path) -> dict[str, Any]:
    """The state record on disk, also while a writer has the store open."""
    with tempfile.TemporaryDirectory() as copy:  # LMDB opens a file only once in a process
        shutil.copy(path / "data.mdb", copy)
        state: dict[str, Any] = json.loads(contents(Path(copy))[STATE_KEY])
    return state


def test_the_state_record_from_the_first_moment_to_the_end(tmp_path: Path) -> None:
    writer = FrameStoreWriter(tmp_path, settings={"quality": 90})
    first = {"format": 1, "videos": 0, "frames": 0, "failed": 0, "complete": False, "expected": None}
    assert state_of(tmp_path) == first | {"settings": {"quality": 90}}
    writer.put("a", [PICTURE, PICTURE])
    writer.commit()
    writer.put("b", [PICTURE])
    writer.finish(failed=3)
    writer.close()
    counts = {"videos": 2, "frames": 3, "failed": 3, "complete": True, "expected": 2}
    assert state_of(tmp_path) == first | counts | {"settings": {"quality": 90}}
    with FrameStoreWriter(tmp_path):
        pass
    assert state_of(tmp_path)["failed"] == 0


def test_a_finished_store_is_incomplete_only_while_videos_are_added(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path) as writer:
        writer.put("a", [PICTURE])
    writer = FrameStoreWriter(tmp_path)
    assert state_of(tmp_path)["complete"] is True  # nothing is announced
    writer.put("b", [PICTURE])
    writer.commit()
    assert state_of(tmp_path)["complete"] is False
    writer.close()
    with FrameStoreWriter(tmp_path):
        pass
    writer = FrameStoreWriter(tmp_path, expected=5)
    assert (state_of(tmp_path)["complete"], state_of(tmp_path)["expected"]) == (False, 5)
    writer.close()


def test_videos_are_committed_when_they_are_a_batch(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path, batch_bytes=2 * VIDEO_BYTES) as writer:
        committed = []
        for name in "abcd":
            writer.put(name, [PICTURE])
            committed.append(writer.videos)
        assert committed == [0, 2, 2, 4]


def test_what_is_stored_and_what_its_manifest_says(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path) as writer:
        writer.put("a", [PICTURE], record={"codec": "h264"})
        assert writer.record("a") is None  # not committed
        writer.commit()
        assert writer.record("a") == {"codec": "h264", "frames": 1} and writer.record("b") is None
        assert "a" in writer and "b" not in writer and 5 not in writer
        writer.finish()
        assert "a" in writer


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=rf"^{tmp_path}/file/store: cannot be made"):
        FrameStoreWriter(tmp_path / "file" / "store")


def test_the_first_size_of_the_map_and_the_rights_of_the_file(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with FrameStoreWriter(tmp_path, map_size=1 << 30) as writer:
            assert writer._open_env.info()["map_size"] == 1 << 30
    finally:
        os.umask(mask)
    assert (tmp_path / "data.mdb").stat().st_mode & 0o777 == 0o644


def test_overwriting_removes_the_store_and_nothing_else(tmp_path: Path) -> None:
    for name in ("data.mdb", "lock.mdb", "metadata.json", "notes.txt"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    FrameStoreWriter(tmp_path, overwrite=True).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.mdb", "notes.txt"]


# The file without its free pages


def with_free_pages(path: Path) -> int:
    """A finished store of which half is free pages; returns the size of its file."""
    with FrameStoreWriter(path) as writer:
        for number in range(10):
            writer.put(f"v{number}", [bytes([number]) * 100_000])
    with lmdb.open(str(path), map_size=64 << 20, lock=False) as env:
        for change in (lambda txn: txn.put(b"other", bytes(1_000_000)), lambda txn: txn.delete(b"other")):
            with env.begin(write=True) as txn:
                change(txn)
    return (path / "data.mdb").stat().st_size


def test_finishing_removes_free_pages(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = with_free_pages(path)
    assert before > 2_000_000
    (path / "compact.tmp").mkdir()
    (path / "compact.tmp" / "data.mdb").write_bytes(b"of a process that was killed")
    with FrameStoreWriter(path) as writer:
        writer.finish()
        assert "v9" in writer
    assert 1_000_000 < (path / "data.mdb").stat().st_size < 1_100_000
    assert sorted(entry.name for entry in path.iterdir()) == ["data.mdb", "metadata.json"]
    assert FrameStore(path).read_jpegs("v9", [0]) == [bytes([9]) * 100_000]


@pytest.mark.parametrize(("free", "compacts"), [(1_050_000, False), (1_300_000, True)])
def test_the_copy_needs_room(
    free: int, compacts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = with_free_pages(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with FrameStoreWriter(tmp_path):
        pass
    assert ((tmp_path / "data.mdb").stat().st_size < before) == compacts
    assert FrameStore(tmp_path).num_frames("v9") == 1


def test_a_few_free_pages_stay(tmp_path: Path) -> None:
    """Copying a large store for them would take long."""
    with FrameStoreWriter(tmp_path) as writer:
        for number in range(10):
            writer.put(f"v{number}", [bytes([number]) * 100_000])
    inode = (tmp_path / "data.mdb").stat().st_ino
    with FrameStoreWriter(tmp_path) as writer:
        writer.put("w", [PICTURE])
    assert (tmp_path / "data.mdb").stat().st_ino == inode


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    assert _cause(lmdb.DiskError("write"), tmp_path).startswith("the disk is full (write); free space")
    assert _cause(OSError("No space left on device"), tmp_path).startswith("the disk is full")
    assert _cause(lmdb.Error("other"), tmp_path) == "other"
