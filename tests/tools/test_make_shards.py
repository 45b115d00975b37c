"""tools/make_shards.py: from a store and from videos, continued, in several processes, byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataloaders.frame_store.reader import FrameStore
from dataloaders.tar_shards.raw_samples import RawSample, read_samples
from dataloaders.tar_shards.sample_videos import SampleVideos
from dataloaders.tar_shards.stream import ShardStream
from tests.dataloaders.tar_shards.shards import write_shards
from tools import frame2lmdb, make_shards
from tools.make_toy_dataset import SIZES, make_toy_dataset
from tools.shards.contents import StoredFrames, shard_ends
from video.sample import Settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VATEX's toy data with a store of 3 frames a video."""
    data = tmp_path_factory.mktemp("data") / "toy"
    make_toy_dataset(data, sizes=SIZES["tiny"], parts=["vatex"])
    folder = data / "vatex"
    flags = ["--video_dir", folder / "videos", "--lmdb_path", folder / "vatex_lmdb", "--num_frames", 3]
    assert frame2lmdb.main([str(flag) for flag in (*flags, "--num_workers", 1, "--short_side", 48)]) == 0
    return data


def make(data: Path, out: Path, *flags: str) -> int:
    return make_shards.main(["--out", str(out), "--dataset", "vatex", "--data_dir", str(data), *flags])


def samples_of(out: Path) -> list[RawSample]:
    found = []
    for path in sorted(out.glob("*.tar")):
        for sample in read_samples(ShardStream(str(path))):
            assert isinstance(sample, RawSample)
            found.append(sample)
    return found


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_from_a_store(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(data, tmp_path, "--samples", "3") == 0
    assert json.loads((tmp_path / "sizes.json").read_text("utf-8")) == {
        "000000.tar": 3,
        "000001.tar": 3,
        "000002.tar": 2,
    }
    found = samples_of(tmp_path)
    store = FrameStore(data / "vatex" / "vatex_lmdb")
    ids = []
    for sample in found:
        files = dict(make_shards.StoredFrames(store).files(video_id := id_of(tmp_path, sample)))
        assert list(files.values()) == sample.frames and len(sample.frames) == 3
        assert set(sample.texts.captions) == {"english", "chinese"}
        ids.append(video_id)
    assert len(set(ids)) == 8 and ids != sorted(ids)
    assert "8 samples in 3 shards" in capsys.readouterr().err


def id_of(out: Path, sample: RawSample) -> str:
    """The video id in the json of a sample."""
    import tarfile

    key = sample.key.strip("'")
    for path in out.glob("*.tar"):
        with tarfile.open(path) as archive:
            if f"{key}.json" in archive.getnames():
                member: Any = archive.extractfile(f"{key}.json")
                return str(json.loads(member.read())["id"])
    raise AssertionError(key)


def test_it_continues_and_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert make(data, whole, "--samples", "3", "--num_workers", "2") == 0
    assert make(data, out, "--samples", "3") == 0
    (out / "000001.tar").unlink()
    (out / "sizes.json").unlink()
    assert make(data, out, "--samples", "3") == 0
    assert contents(out) == contents(whole)


def test_other_settings_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(data, tmp_path, "--samples", "3") == 0
    assert make(data, tmp_path, "--samples", "4") == 2
    assert "holds shards of other videos, texts or settings" in capsys.readouterr().err
    assert make(data, tmp_path, "--samples", "4", "--overwrite") == 0
    assert len(list(tmp_path.glob("*.tar"))) == 2
    (tmp_path / "make_shards.json").unlink()
    assert make(data, tmp_path, "--samples", "4") == 2
    assert "that this program did not make" in capsys.readouterr().err


def test_videos_give_the_frames_of_a_store_of_the_same_settings(data: Path, tmp_path: Path) -> None:
    assert make(data, tmp_path, "--video_dir", str(data / "vatex" / "videos")) == 0
    sample = samples_of(tmp_path)[0]
    assert sample.video is not None and not sample.frames
    store = FrameStore(data / "vatex" / "vatex_lmdb")
    videos = SampleVideos(Settings(num_frames=3, short_side=48))
    try:
        video = videos.of(sample)
        stored = store.read_frames(id_of(tmp_path, sample), [0, 2])
        assert video.num_frames() == 3
        assert all(map(np.array_equal, video.iter_frames([0, 2]), stored))
    finally:
        videos.close()


def test_what_follows_the_first_seconds_is_left_out(data: Path, tmp_path: Path) -> None:
    assert make(data, tmp_path, "--video_dir", str(data / "vatex" / "videos")) == 0
    sample = samples_of(tmp_path)[0]
    store = FrameStore(data / "vatex" / "vatex_lmdb")
    video_id = id_of(tmp_path, sample)
    times = (store.manifest(video_id) or {})["times"]
    assert times[0] < times[1] - 0.1
    seconds = times[1] - times[0] - 0.05
    assert [name for name, _ in StoredFrames(store, seconds).files(video_id)] == ["000.jpg"]
    whole, cut = (
        SampleVideos(Settings(num_frames=3, short_side=48), first_seconds=limit) for limit in (None, seconds)
    )
    try:
        frames, shorter = (list(videos.of(sample).iter_frames([0, 2])) for videos in (whole, cut))
        assert np.array_equal(frames[0], shorter[0]) and not np.array_equal(frames[1], shorter[1])
    finally:
        whole.close()
        cut.close()


def test_videos_that_are_absent(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(data / "vatex" / "videos", videos)
    listed = (data / "vatex" / "train_list.txt").read_text("utf-8").split()
    next(videos.glob(f"{listed[0]}.*")).unlink()
    flags = ["--video_dir", str(videos)]
    assert make(data, tmp_path / "out", *flags) == 2
    assert "lacks 1 videos of the split" in capsys.readouterr().err
    assert make(data, tmp_path / "out", *flags, "--allow_missing") == 0
    assert json.loads((tmp_path / "out" / "sizes.json").read_text("utf-8")) == {"000000.tar": 7}


def test_a_shard_ends_before_it_is_too_large() -> None:
    assert shard_ends(None, 7, samples=3, most_bytes=None) == [3, 6, 7]
    assert shard_ends([4, 4, 9, 1, 1, 1, 1], 7, samples=3, most_bytes=8) == [2, 3, 6, 7]


def test_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, (2, 3), index=False)
    assert make_shards.main(["count", f"{tmp_path}/{{000..001}}.tar"]) == 0
    assert "5 samples in 2 shards" in capsys.readouterr().out
    assert json.loads((tmp_path / "sizes.json").read_text("utf-8")) == {"000.tar": 2, "001.tar": 3}
    assert make_shards.main(["count", f"{tmp_path}/002.tar"]) == 2
