"""The layout of a frame store: keys, records, shards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.errors import EXIT_STOPPED, UserError
from dataloaders.frame_store.format import (
    DATA_FILE,
    FrameStoreError,
    FrameStoreWriteError,
    check_video_id,
    differences,
    find_shards,
    frame_key,
    from_json,
    shard_name,
    shard_of,
    to_json,
    video_key,
)


def test_keys() -> None:
    assert frame_key("视频", 12) == "视频_12".encode()
    assert video_key("视频") == b"\0video/" + "视频".encode()


def test_the_longest_id_has_504_bytes() -> None:
    """LMDB's keys have up to 511 bytes; a manifest's key has seven more than the id."""
    for good in ("v" * 504, "视" * 168):
        check_video_id(good)
    with pytest.raises(UserError, match=r"^video id 'v{40}'\.\.\. is longer than 504 bytes, LMDB's limit$"):
        check_video_id("v" * 505)


def test_records_are_short_sorted_and_readable() -> None:
    data = to_json({"b": 1, "a": "视频", "c": [1, None]})
    assert data == '{"a":"视频","b":1,"c":[1,null]}'.encode()
    assert from_json(memoryview(data)) == {"a": "视频", "b": 1, "c": [1, None]}
    assert from_json(None) is None


def test_settings_that_differ_are_named() -> None:
    old, new = {"a": 1, "c": 3, "b": "x"}, {"a": 1, "b": "y", "d": 4}
    assert differences(old, new) == "b 'x' there, 'y' now, c 3 there, None now, d None there, 4 now"
    assert differences({"a": 1}, {"a": 2}, here="elsewhere") == "a 1 there, 2 elsewhere"
    assert differences(old, old) == ""


def test_a_stopped_write_has_its_own_exit_code() -> None:
    assert FrameStoreWriteError("full").exit_code == EXIT_STOPPED


def test_the_shard_of_an_id_is_its_crc() -> None:
    assert shard_of("123456789", 1 << 32) == 0xCBF43926  # the check value of CRC-32
    assert shard_of("123456789", 1000) == 0xCBF43926 % 1000
    assert 0 <= shard_of("\ud800", 3) < 3  # not UTF-8: some shard reports it
    assert shard_name(2, 12) == "shard-00002-of-00012"


def make(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / DATA_FILE).touch()
    return path


def test_shards_are_found_in_their_order(tmp_path: Path) -> None:
    shards = [make(tmp_path / "s" / shard_name(index, 12)) for index in (11, *range(11))]
    (tmp_path / "s" / "notes.txt").touch()
    (tmp_path / "s" / "old-shard-00001-of-00002").mkdir()
    assert find_shards(tmp_path / "s") == [*shards[1:], shards[0]]
    single = make(tmp_path / "t")
    assert find_shards(single) == [single] and find_shards(single / DATA_FILE) == [single / DATA_FILE]


def test_absent_shards_are_named(tmp_path: Path) -> None:
    make(tmp_path / "s" / shard_name(0, 8))
    (tmp_path / "s" / shard_name(7, 8)).mkdir()  # without data
    names = ", ".join(f"shard-0000{index}-of-00008" for index in range(1, 6))
    message = re.escape(f"frame store {tmp_path}/s: incomplete: 7 of 8 shards absent ({names})")
    with pytest.raises(FrameStoreError, match=f"^{message}$"):
        find_shards(tmp_path / "s")
    make(tmp_path / "s" / shard_name(0, 3))
    with pytest.raises(FrameStoreError, match=r"shards of different counts are mixed: \[3, 8\]$"):
        find_shards(tmp_path / "s")


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(FrameStoreError, match="no such folder or file"):
        find_shards(tmp_path / "none")
    with pytest.raises(FrameStoreError, match=r"the folder has neither data.mdb nor shards"):
        find_shards(tmp_path)
