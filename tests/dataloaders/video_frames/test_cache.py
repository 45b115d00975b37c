"""The cache of decoded frames: read as it grows, a frame store at the end."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest

from common.errors import UserError
from common.locks import FileLock
from dataloaders.frame_store.environment import shared_environment
from dataloaders.frame_store.format import LOCK_FILE
from dataloaders.frame_store.loose_videos import FOLDER
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from dataloaders.video_frames.cache import CacheOwner, FrameCache
from dataloaders.video_frames.source import VideoFrames
from tests.video import fixtures
from tools import frame2lmdb
from video.sample import Settings

SETTINGS = Settings(num_frames=4, short_side=32)
RECORD = SETTINGS.as_record()
JPEGS = [b"0", b"1", b"2", b"3"]


def owner(folder: Path, lines: list[str] | None = None) -> CacheOwner:
    return CacheOwner(folder, RECORD, say=(lines if lines is not None else []).append)


def test_videos_decoded_once_become_the_store_that_frame2lmdb_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(3):
        fixtures.write_video(tmp_path / "videos" / f"v{number}.mp4", frames=10 + number)
    flags = [*("--video_dir", str(tmp_path / "videos")), *("--num_frames", "4", "--short_side", "32")]
    assert frame2lmdb.main([*flags, "--lmdb_path", str(tmp_path / "built"), "--num_workers", "1"]) == 0
    built = FrameStore(tmp_path / "built")

    run = owner(tmp_path / "cache")
    run.open()
    cache = FrameCache(tmp_path / "cache", RECORD)
    frames = VideoFrames(tmp_path / "videos", SETTINGS, timeout=60, cache=cache)
    for video_id in ("v0", "v2"):
        assert frames.manifest(video_id) is None
        assert frames.read_jpegs(video_id, [3, 1]) == built.read_jpegs(video_id, [3, 1])
        (tmp_path / "videos" / f"{video_id}.mp4").rename(tmp_path / f"{video_id}.mp4")
        assert frames.read_jpegs(video_id, [0]) == built.read_jpegs(video_id, [0])  # not decoded again
        assert frames.manifest(video_id) == built.manifest(video_id)
        (tmp_path / f"{video_id}.mp4").rename(tmp_path / "videos" / f"{video_id}.mp4")
    run.close(merge=True)

    store = FrameStore(tmp_path / "cache")
    assert list(store.video_ids()) == ["v0", "v2"] and frame2lmdb.main(["verify", str(store.path)]) == 0
    assert not (store.path / FOLDER).exists()
    assert pickle.loads(pickle.dumps(frames)).read_jpegs("v0", [2]) == built.read_jpegs("v0", [2])
    # frame2lmdb.py continues it, also from files that a killed run has left.
    frames.check_cache(["v0", "v1", "v2"])
    cut = VideoFrames(tmp_path / "videos", SETTINGS, timeout=60, first_seconds=0.1, cache=cache)
    with pytest.raises(UserError, match="'v0' has seconds 0 to the end, and seconds 0 to 0.1 are wanted"):
        cut.check_cache(["v0"])
    fixtures.write_video(tmp_path / "videos" / "v2.mp4", frames=30)
    with pytest.raises(UserError, match="'v2' was made from another file .v2.mp4, [0-9]* bytes. than .*v2"):
        frames.check_cache(["v0", "v2"])
    cache.put("v1", [b"not decoded again"] * 4, record={})
    assert frame2lmdb.main(["info", str(store.path)]) == 0
    assert "beside the store: 1 videos that runs with --frame_cache" in capsys.readouterr().out
    shared_environment(store.path).close()  # it would be another process
    assert frame2lmdb.main([*flags, "--lmdb_path", str(store.path), "--num_workers", "1"]) == 0
    assert FrameStore(store.path).read_jpegs("v1", [0]) == [b"not decoded again"]
    frames.close()


def test_a_killed_run_is_continued_and_the_store_is_complete_only_at_the_end(tmp_path: Path) -> None:
    killed = owner(tmp_path)
    killed.open()
    FrameCache(tmp_path, RECORD).put("v0", JPEGS, record={})
    killed._presence.leave()  # as TOO_OLD seconds later
    with pytest.raises(UserError, match="incomplete: 0 of . videos"):
        FrameStore(tmp_path)
    lines: list[str] = []
    run = owner(tmp_path, lines)
    run.open()
    cache = FrameCache(tmp_path, RECORD)
    assert cache.read_jpegs("v0", [1]) == [b"1"] and "v1" not in cache
    run.close(merge=True)
    assert lines == [f"frame cache {tmp_path}: a frame store of 1 videos, 1 of them new"]
    assert FrameStore(tmp_path).num_frames("v0") == 4


def test_while_another_run_uses_it_new_videos_stay_files(tmp_path: Path) -> None:
    lines: list[str] = []
    one, other = owner(tmp_path, lines), owner(tmp_path)
    one.open()
    other.open()
    cache = FrameCache(tmp_path, RECORD)
    cache.put("v0", JPEGS, record={})
    one.close(merge=True)
    assert "other runs use it" in lines[0] and (tmp_path / FOLDER).is_dir()
    with pytest.raises(UserError, match="is the --frame_cache of a run"):
        frame2lmdb._build(
            frame2lmdb.build_parser().parse_args(
                ["--video_dir", str(tmp_path), "--lmdb_path", str(tmp_path), "--shard", "none"]
            )
        )
    other.close(merge=True)
    assert FrameStore(tmp_path).num_frames("v0") == 4


def test_a_folder_that_cannot_be_a_cache_is_refused(tmp_path: Path) -> None:
    with FrameStoreWriter(tmp_path / "other", settings={"num_frames": 30}):
        pass
    with pytest.raises(UserError, match="other settings: .*num_frames 30 there, 4 now.*another folder"):
        owner(tmp_path / "other").open()
    (tmp_path / "sharded" / "shard-00000-of-00002").mkdir(parents=True)
    with pytest.raises(UserError, match="store in shards"):
        owner(tmp_path / "sharded").open()
    run = owner(tmp_path / "locked")
    run.open()
    run.close(merge=True)
    with FileLock(tmp_path / "locked" / LOCK_FILE), pytest.raises(UserError, match="another process"):
        owner(tmp_path / "locked").open()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--frame_cache .*file: cannot be made"):
        owner(tmp_path / "file").open()


def test_a_full_disk_ends_caching_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    cache = FrameCache(tmp_path, RECORD)
    with caplog.at_level(logging.WARNING):
        cache.put("v0", JPEGS, record={})
        cache.put("v1", JPEGS, record={})
    assert caplog.text.count("the frame cache gets no more videos") == 1
    assert "v0" not in cache and not list(tmp_path.rglob("*.tmp"))
