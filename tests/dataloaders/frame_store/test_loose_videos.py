"""Videos in files beside a store: added by many processes, put into the store by one, and nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import FileError
from dataloaders.frame_store.loose_videos import FOLDER, LooseVideos
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter

SETTINGS = {"num_frames": 2}
RECORD = {"file": "a.mp4", "times": [0.0, 1.5]}
# Ids that are no names of files.
IDS = ("v0", "a/b c", "影片", "x" * 400)


@pytest.fixture
def loose(tmp_path: Path) -> LooseVideos:
    videos = LooseVideos(tmp_path, SETTINGS)
    for video_id in IDS:
        videos.put(video_id, [f"{video_id} {i}".encode() for i in range(2)], record=RECORD)
    return videos


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / FOLDER).rglob("*") if path.is_file())


def merge(folder: Path, *, settings: dict[str, int] = SETTINGS) -> tuple[int, int]:
    with FrameStoreWriter(folder, settings=settings) as writer:
        merged = LooseVideos(folder, settings).merge_into(writer)
    return merged.videos, merged.unusable


def test_what_was_put_is_read(loose: LooseVideos) -> None:
    for video_id in IDS:
        assert video_id in loose and loose.record(video_id) == {**RECORD, "frames": 2}
        assert loose.read_jpegs(video_id, [1, 0, 1]) == [f"{video_id} {i}".encode() for i in (1, 0, 1)]
    assert "v1" not in loose and loose.read_jpegs("v1", [0]) is None and loose.record("v1") is None
    assert loose.read_jpegs("v0", [2]) is None


def test_merged_videos_are_those_of_a_writer(loose: LooseVideos, tmp_path: Path) -> None:
    assert loose and merge(tmp_path) == (len(IDS), 0)
    assert not loose and not (tmp_path / FOLDER).exists()
    with FrameStoreWriter(tmp_path / "direct", settings=SETTINGS) as writer:
        for video_id in IDS:
            writer.put(video_id, [f"{video_id} {i}".encode() for i in range(2)], record=RECORD)
    one, other = FrameStore(tmp_path), FrameStore(tmp_path / "direct")
    assert one.states() == other.states()
    for video_id in IDS:
        assert one.read_jpegs(video_id, [0, 1]) == other.read_jpegs(video_id, [0, 1])
        assert one.manifest(video_id) == other.manifest(video_id)


def test_a_video_that_is_in_the_store_already_stays_as_it_is(loose: LooseVideos, tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path, settings=SETTINGS) as writer:
        writer.put("v0", [b"first", b"second"])
    assert merge(tmp_path) == (len(IDS), 0)
    assert FrameStore(tmp_path).read_jpegs("v0", [0]) == [b"first"]


def test_files_that_are_damaged_unfinished_or_of_other_settings_are_absent_and_removed(
    loose: LooseVideos, tmp_path: Path
) -> None:
    cut, flipped, _, _ = files(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-30])
    data = bytearray(flipped.read_bytes())
    data[data.index(b" 0", data.index(b"00000.jpg"))] ^= 1
    flipped.write_bytes(data)
    (cut.parent / "0123.tmp").write_bytes(b"of a process that was killed")
    LooseVideos(tmp_path, {"num_frames": 3}).put("v3", [b"x"], record=RECORD)
    assert "v3" not in loose and sum(loose.read_jpegs(name, [0, 1]) is not None for name in IDS) == 2
    assert merge(tmp_path) == (2, 3)
    assert not (tmp_path / FOLDER).exists() and FrameStore(tmp_path).states()[0]["videos"] == 2  # type: ignore[index]


def test_a_kill_while_merging_loses_nothing(
    loose: LooseVideos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(paths: object, writer: FrameStoreWriter) -> None:
        writer.commit()
        raise Killed

    module = "dataloaders.frame_store.loose_videos"
    monkeypatch.setattr(f"{module}._COMMIT_EVERY", 2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(f"{module}._remove_after_commit", kill)
        merge(tmp_path)
    assert len(files(tmp_path)) == 4
    assert merge(tmp_path) == (4, 0)
    assert FrameStore(tmp_path).states()[0]["videos"] == 4  # type: ignore[index]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    with pytest.raises(FileError, match="loose.*cannot be written"):
        LooseVideos(tmp_path, SETTINGS).put("v0", [b"x"], record={})
