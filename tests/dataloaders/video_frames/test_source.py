"""Frames straight from video files: those of a frame store, byte for byte; a bad file costs one video."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataloaders.frame_source import FramesError
from dataloaders.frame_store.reader import FrameStore
from dataloaders.loader import ShardSampler, build_loader
from dataloaders.video_frames.source import VideoFrames
from dataloaders.video_text import VideoTextDataset
from tests.dataloaders.toy import REALDATA, WordTokenizer, toy_examples
from tests.video import fixtures
from tools import frame2lmdb
from video.sample import Settings

SETTINGS = Settings(num_frames=6, short_side=32, quality=90)
CLIP = "long_000002_000004"  # seconds 2 to 4 of long.mp4


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v0 to v2 as usual, v3 of fewer frames than are taken, a long one, a damaged one and no video."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        fixtures.write_video(folder / f"v{number}.mp4", frames=20 + 15 * number)
    fixtures.write_video(folder / "v3.webm", frames=4, codec="libvpx", options={})
    fixtures.write_video(folder / "long.mp4", frames=120)
    fixtures.flip_bytes(folder / "damaged.mp4", folder / "v1.mp4", packet=20)
    (folder / "broken.mp4").write_bytes((folder / "v0.mp4").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    return build_store(videos, tmp_path_factory.mktemp("store"), SETTINGS)


@pytest.fixture(scope="module")
def frames(videos: Path) -> Iterator[VideoFrames]:
    source = VideoFrames(videos, SETTINGS, timeout=60)
    yield source
    source.close()


def build_store(videos: Path, folder: Path, settings: Settings) -> FrameStore:
    ids = [path.stem for path in sorted(videos.iterdir()) if path.stem != "broken"]
    listed = folder / "list.jsonl"
    listed.write_text("".join(f'{{"video_id": "{name}"}}\n' for name in [*ids, CLIP]), encoding="utf-8")
    flags = {"num_frames": settings.num_frames, "short_side": settings.short_side}
    code = frame2lmdb.main(
        [
            *("--video_dir", str(videos), "--lmdb_path", str(folder / "lmdb"), "--json_path", str(listed)),
            *("--quality", str(settings.quality), "--num_workers", "1", "--clip_from_id"),
            *(f"--{name}={value}" for name, value in flags.items()),
        ]
    )
    assert code == 0
    return FrameStore(folder / "lmdb")


def test_frames_are_those_of_the_store(frames: VideoFrames, store: FrameStore) -> None:
    videos = list(store.video_ids())
    assert len(videos) == 6 + (CLIP in videos) and frames.missing(videos) == []
    for video_id in videos:
        # In order, in another one, and one frame twice, as clips of more frames than are stored have it.
        for indices in (range(6), [4, 1], [0, 0, 5]):
            assert frames.read_jpegs(video_id, indices) == store.read_jpegs(video_id, indices), video_id
        assert frames.num_frames(video_id) == store.num_frames(video_id)
    ours, theirs = frames.read_frames("v1", [2, 3]), store.read_frames("v1", [2, 3])
    assert all(map(np.array_equal, ours, theirs))


@pytest.mark.skipif(not REALDATA.is_dir(), reason="no real videos here")
def test_frames_of_odd_real_videos_are_those_of_the_store(tmp_path: Path) -> None:
    names = ("decord_video_180.mov", "invalid_nalu.mp4", "decord_corrupted.mp4")
    found = [path for name in names if (path := REALDATA / "videos" / "hard" / name).is_file()]
    assert found
    (tmp_path / "videos").mkdir()
    for path in found:
        shutil.copy(path, tmp_path / "videos")
    store = FrameStore(_stored(tmp_path))
    source = VideoFrames(tmp_path / "videos", Settings(num_frames=12), timeout=60)
    for video_id in store.video_ids():
        assert source.read_jpegs(video_id, [0, 5, 11]) == store.read_jpegs(video_id, [0, 5, 11]), video_id
    source.close()


def _stored(folder: Path) -> Path:
    flags = ("--num_frames", "12", "--num_workers", "1")
    videos, target = str(folder / "videos"), folder / "lmdb"
    assert frame2lmdb.main(["--video_dir", videos, "--lmdb_path", str(target), *flags]) == 0
    return target


def test_ids_name_files_or_parts_of_them(videos: Path, frames: VideoFrames, tmp_path: Path) -> None:
    assert CLIP in frames and "long_000003_000001" not in frames and "v9" not in frames
    ends = frames.read_frames("long_000003.500_end", [0, 5])
    assert [fixtures.read_number(picture) for picture in ends] == [88, 119]
    cut = VideoFrames(videos, SETTINGS, timeout=60, first_seconds=1.2)
    first = cut.read_frames("long", [0, 5])
    assert [fixtures.read_number(picture) for picture in first] == [0, 29]
    cut.close()
    # A file of the clip's own name comes first, and is taken as a whole; --clip_from_id looks at its length.
    shutil.copy(videos / "long.mp4", tmp_path / f"{CLIP}.mp4")
    whole = VideoFrames(tmp_path, SETTINGS, timeout=60)
    part = VideoFrames(tmp_path, SETTINGS, timeout=60, clip_from_id=True)
    assert whole.read_jpegs(CLIP, [0, 5]) == frames.read_jpegs("long", [0, 5])
    assert part.read_jpegs(CLIP, [0, 5]) == frames.read_jpegs(CLIP, [0, 5])
    whole.close()
    part.close()


def test_a_table_of_files_takes_the_place_of_the_folder(videos: Path, frames: VideoFrames) -> None:
    source = VideoFrames(videos, SETTINGS, timeout=60)
    source.find(["v0", "v2", "v9", CLIP])
    copy = pickle.loads(pickle.dumps(source))
    assert copy.missing(["v0", "v1", "v2", "v9", CLIP]) == ["v1", "v9"]
    assert copy.read_jpegs(CLIP, [3]) == frames.read_jpegs(CLIP, [3])
    copy.close()


def test_bad_files_name_video_file_and_reason(frames: VideoFrames, videos: Path) -> None:
    with pytest.raises(FramesError, match=r"video 'broken' \(broken.mp4\): unopenable: "):
        frames.read_jpegs("broken", [0])
    with pytest.raises(FramesError, match="video 'v9': no such file"):
        frames.read_jpegs("v9", [0])
    with pytest.raises(FramesError, match="video 'v0': has the frames 0 to 5"):
        frames.read_jpegs("v0", [6])
    with pytest.raises(FramesError, match="no frame between 50 s and 60 s"):
        frames.read_jpegs("long_000050_000060", [0])
    with pytest.raises(UserError, match="no such folder of videos"):
        VideoFrames(videos / "v0.mp4", SETTINGS, timeout=60)
    assert len(frames.read_jpegs("v0", [0])) == 1


def test_undecodable_files_are_found_without_decoding_all(frames: VideoFrames) -> None:
    faults = frames.undecodable(["v0", "broken", "damaged", CLIP, "long_000050_000060", "v9"], workers=2)
    assert sorted(faults) == ["broken", "long_000050_000060"]
    assert faults["broken"].startswith("unopenable: ")


def test_a_decoder_that_dies_is_replaced(frames: VideoFrames) -> None:
    before = frames.read_jpegs("v0", [1])
    pid = frames._decoder.pid
    assert pid is not None
    os.kill(pid, signal.SIGSEGV)
    assert frames.read_jpegs("v0", [1]) == before
    assert frames._decoder.pid not in (None, pid)


def test_a_video_that_hangs_costs_its_timeout_once(videos: Path) -> None:
    source = VideoFrames(videos, SETTINGS, timeout=0.5)
    source.read_jpegs("v0", [1])
    pid = source._decoder.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for _ in range(2):  # the second time by memory
        with pytest.raises(FramesError, match=r"video 'v1' \(v1.mp4\): timeout: took longer than 0.5 s"):
            source.read_jpegs("v1", [1])
        assert source._decoder.pid is None
    assert len(source.read_jpegs("v2", [1])) == 1
    source.close()


def test_a_dataset_replaces_unreadable_videos_in_workers(videos: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("v0", "broken", "v2", "v1")):
        shutil.copy(videos / f"{name}.mp4", tmp_path / f"v{number}.mp4")
    source = VideoFrames(tmp_path, SETTINGS, timeout=60)
    source.find(f"v{number}" for number in range(4))
    data = VideoTextDataset(
        toy_examples(videos=4),
        source,
        WordTokenizer(),
        view="pairs",
        max_words=8,
        max_frames=3,
        image_size=16,
    )
    loader = build_loader(data, ShardSampler(4, rank=0, world_size=1), batch_size=4, num_workers=1)
    (batch,) = list(loader)
    assert batch["replaced"].tolist() == [0, 1, 0, 0]
    assert torch.equal(batch["frames"][1], batch["frames"][2])
