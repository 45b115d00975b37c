"""Frame stores with damaged pages: one line names store, video and frame, not only LMDB's error."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import lmdb
import pytest

from dataloaders.frame_store.format import DATA_FILE, video_key
from dataloaders.frame_store.reader import FrameStore, FrameStoreError
from dataloaders.frame_store.writer import FrameStoreWriter
from tests.dataloaders.frame_store.damage import damage_leaf
from tests.dataloaders.frame_store.test_reader import jpeg, published

LAST = "v39"


def written(path: Path) -> Path:
    with FrameStoreWriter(path) as writer:
        for number in range(40):
            writer.put(f"v{number:02d}", [jpeg(index) for index in range(12)])
    return path


def test_a_rotten_page_is_said_of_the_frame(tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    damage_leaf(path, f"{LAST}_11".encode())
    store = FrameStore(path)
    assert len(store.read_frames("v00", range(12))) == 12  # the rest is whole
    where = re.escape(f"frame store {path}: video '{LAST}', frame 11: the file is damaged (")
    for read in (store.read_frames, store.read_jpegs):
        with pytest.raises(FrameStoreError, match=where) as caught:
            read(LAST, [11])
        assert "build it again" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FrameStoreError, match=f"video '{LAST}': the file is damaged"):
        store.has_frame(LAST, 11)


def test_a_rotten_page_of_manifests_is_said_of_the_video(tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    damage_leaf(path, video_key(LAST))
    store = FrameStore(path, allow_incomplete=True)
    for ask in (store.num_frames, store.manifest, store.__contains__):
        with pytest.raises(FrameStoreError, match=f"video '{LAST}': the file is damaged"):
            ask(LAST)
    with pytest.raises(FrameStoreError, match="the list of its videos: the file is damaged"):
        list(store.video_ids())


def test_a_rotten_page_of_a_published_store(tmp_path: Path) -> None:
    path = published(tmp_path / "p", {f"v{number:02d}": 12 for number in range(40)})
    damage_leaf(path, f"{LAST}_0".encode())
    with pytest.raises(FrameStoreError, match=f"video '{LAST}': the file is damaged"):
        FrameStore(path).num_frames(LAST)


def test_a_rotten_first_page_is_said_of_the_store(tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    damage_leaf(path, b"\0store")
    with pytest.raises(FrameStoreError, match=f"frame store {path}: its state record: the file is damaged"):
        FrameStore(path)


def test_a_file_that_lost_its_head_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    with open(path / DATA_FILE, "rb+") as file:
        file.write(bytes(8192))  # both meta pages
    with pytest.raises(FrameStoreError, match=f"frame store {path}: cannot be opened"):
        FrameStore(path)


@pytest.mark.parametrize("record", [b"{", b"\xff", b"[1]", b"{}", b'{"frames": null}'])
def test_a_broken_manifest_is_said_of_the_video(record: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        txn.put(video_key(LAST), record)
    with pytest.raises(FrameStoreError, match=f"frame store {path}: video '{LAST}': its manifest is broken"):
        FrameStore(path).num_frames(LAST)


@pytest.mark.parametrize("record", [b"{", b"{}", b"[]"])
def test_a_broken_state_is_said_of_the_store(record: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        txn.put(b"\0store", record)
    with pytest.raises(FrameStoreError, match=f"frame store {path}: its state record is broken"):
        FrameStore(path)


def test_keys_that_are_no_text_are_said_of_the_store(tmp_path: Path) -> None:
    path = published(tmp_path / "p", {"a": 3})
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        txn.put(struct.pack("<I", 0xFFFFFFFF) + b"_0", jpeg())
    with pytest.raises(FrameStoreError, match=f"frame store {path}: the list of its videos"):
        list(FrameStore(path).video_ids())
