"""Reading frame stores: ours, the published layout, shards; in other processes; errors."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from dataloaders.frame_store.environment import shared_environment
from dataloaders.frame_store.format import METADATA_FILE, check_video_id, shard_name, shard_of
from dataloaders.frame_store.reader import FrameStore, FrameStoreError, decode_jpeg
from dataloaders.frame_store.writer import FrameStoreWriter

ROOT = Path(__file__).resolve().parents[3]


def jpeg(value: int = 100, *, size: tuple[int, int] = (24, 32)) -> bytes:
    picture = np.full((*size, 3), value, np.uint8)
    picture[:, :, 0] = 10  # blue, as OpenCV has it
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def published(path: Path, frames: dict[str, int], **options: bool) -> Path:
    """A store as the published tool writes it: keys and pictures, nothing else."""
    with lmdb.open(str(path), map_size=1 << 26, **options) as env, env.begin(write=True) as txn:
        for video_id, count in frames.items():
            for index in range(count):
                txn.put(f"{video_id}_{index}".encode(), jpeg(index))
    return path


def change(path: Path, key: str, value: bytes | None) -> None:
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        done = txn.delete(key.encode()) if value is None else txn.put(key.encode(), value)
        assert done


def written(path: Path, videos: dict[str, int]) -> Path:
    with FrameStoreWriter(path) as writer:
        for video_id, count in videos.items():
            writer.put(video_id, [jpeg(index) for index in range(count)])
    return path


# Published layout


def test_published_stores_are_read_as_they_are(tmp_path: Path) -> None:
    store = FrameStore(published(tmp_path / "s", {"video0": 30, "Video77": 48, "a_1": 7, "a": 12, "-x.y": 1}))
    counts = {video_id: store.num_frames(video_id) for video_id in ("video0", "Video77", "a_1", "a", "-x.y")}
    assert counts == {"video0": 30, "Video77": 48, "a_1": 7, "a": 12, "-x.y": 1}
    assert store.missing(["video0", "no", "video", "a", "no"]) == ["no", "video"]
    assert "video0" in store and "video1" not in store and 5 not in store
    assert sorted(store.video_ids()) == ["-x.y", "Video77", "a", "a_1", "video0"]
    assert store.manifest("video0") is None and store.states() == [None]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 15, 16, 17, 29, 30, 31, 47, 48, 49, 64, 100])
def test_any_number_of_frames_is_found(count: int, tmp_path: Path) -> None:
    store = FrameStore(published(tmp_path / "s", {"v": count}))
    assert store.num_frames("v") == count and store.missing(["v", "w"]) == ["w"]


def test_a_single_file_is_a_store(tmp_path: Path) -> None:
    store = FrameStore(published(tmp_path / "frames.lmdb", {"v": 3}, subdir=False))
    assert store.read_frames("v", [2])[0].shape == (24, 32, 3)


def test_pictures_are_rgb_and_in_the_order_asked_for(tmp_path: Path) -> None:
    store = FrameStore(published(tmp_path / "s", {"v": 200}))
    frames = store.read_frames("v", np.array([150, 60, 150]))
    assert [int(frame[0, 0, 0]) for frame in frames] == pytest.approx([150, 60, 150], abs=3)
    assert frames[0][0, 0, 2] < 20  # blue last
    assert frames[0].dtype == np.uint8
    assert store.read_jpegs("v", [3]) == [jpeg(3)]


def test_what_published_code_asks_for_is_in_our_stores(tmp_path: Path) -> None:
    written(tmp_path / "s", {"video0": 30})
    with lmdb.open(str(tmp_path / "s"), readonly=True) as env, env.begin() as txn:
        assert txn.get(b"video0_29") == jpeg(29) and txn.get(b"video0_30") is None
    assert json.loads((tmp_path / "s" / METADATA_FILE).read_text(encoding="utf-8")) == {"length": 1}


# Errors (FR-18, FR-19)


def test_whether_a_frame_is_there_and_the_name_of_a_store(tmp_path: Path) -> None:
    store = FrameStore(written(tmp_path / "s", {"v": 3}))
    assert [store.has_frame("v", index) for index in range(4)] == [True, True, True, False]
    assert repr(store) == f"FrameStore({str(tmp_path / 's')!r})"


def test_frames_one_by_one_may_be_decoded_smaller(tmp_path: Path) -> None:
    store = FrameStore(written(tmp_path / "s", {"v": 3}))
    excess = [lambda height, width: 1.0, lambda height, width: 2.0]
    assert [frame.shape for frame in store.iter_frames("v", [0, 2], excess)] == [(24, 32, 3), (12, 16, 3)]
    assert [frame.shape for frame in store.iter_frames("v", [1])] == [(24, 32, 3)]


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    published(tmp_path / "s", {"v": 30})
    change(tmp_path / "s", "v_17", None)
    store = FrameStore(tmp_path / "s")
    with pytest.raises(
        FrameStoreError, match=r"frame store .*/s: video 'v', frame 17: not stored; .*30 frames"
    ):
        store.read_frames("v", range(30))


def test_a_frame_beyond_those_stored_says_how_many_there_are(tmp_path: Path) -> None:
    store = FrameStore(written(tmp_path / "s", {"v": 30}))
    with pytest.raises(
        FrameStoreError, match=r"video 'v', frame 47: not stored; the manifest says 30 frames \(0 to 29\)$"
    ):
        store.read_frames("v", range(47, 48))
    with pytest.raises(
        FrameStoreError, match=r"video 'w', frame 0: not stored; the store has no frame of it"
    ):
        store.read_jpegs("w", [0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (jpeg()[:300], "cut off"),
        (b"\xff\xd8 nonsense \xff\xd9", "broken JPEG"),
        (b"\x89PNG" + bytes(200), "not a JPEG"),
    ],
)
def test_broken_pictures_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    published(tmp_path / "s", {"v": 5})
    change(tmp_path / "s", "v_3", data)
    store = FrameStore(tmp_path / "s")
    assert len(store.read_frames("v", [0, 4])) == 2
    with pytest.raises(FrameStoreError, match=f"frame store .*/s: video 'v', frame 3: .*{message}"):
        store.read_frames("v", [2, 3])


def test_padding_after_a_jpeg_is_no_fault() -> None:
    assert decode_jpeg(jpeg() + bytes(16)).shape == (24, 32, 3)


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    writer = FrameStoreWriter(tmp_path / "s", expected=7)
    writer.put("v", [jpeg()])
    writer.commit()
    writer.close()
    with pytest.raises(FrameStoreError, match=r"incomplete: 1 of 7 videos; run .* again"):
        FrameStore(tmp_path / "s")
    assert FrameStore(tmp_path / "s", allow_incomplete=True).num_frames("v") == 1


@pytest.mark.parametrize("kind", ["nothing", "folder", "text", "other file"])
def test_what_is_no_store_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.mkdir()
        (path / "data.mdb").write_text("no store at all\n" * 1000, encoding="utf-8")
    elif kind == "other file":
        path.write_bytes(bytes(10000))
    with pytest.raises(FrameStoreError, match="frame store .*/s: "):
        FrameStore(path).num_frames("v")


def test_ids_that_cannot_be_keys() -> None:
    for good in ("-x", "a.b_c", "视频 1", "v" * 498):
        check_video_id(good)
    for bad in ("", "a\0b", "v" * 506, "视" * 200, "\ud800"):
        with pytest.raises(ValueError, match="video id"):
            check_video_id(bad)


@pytest.mark.parametrize("ours", [True, False])
def test_a_store_that_is_cut_off_is_refused(ours: bool, tmp_path: Path) -> None:
    """Reading beyond the end of the file would kill the process."""
    make = written if ours else published
    path = make(tmp_path / "s", {f"v{number}": 30 for number in range(40)})
    with open(path / "data.mdb", "rb+") as file:
        file.truncate((path / "data.mdb").stat().st_size // 2)
    with pytest.raises(FrameStoreError, match=r"cut off: \d+ bytes of \d+"):
        FrameStore(path).num_frames("v0")
    with pytest.raises(FrameStoreError, match="cut off"):
        FrameStoreWriter(path)


def test_ids_longer_than_any_key_are_missing(tmp_path: Path) -> None:
    store = FrameStore(published(tmp_path / "s", {"a": 2, "v" * 509: 2}))
    assert store.missing(["a", "v" * 509, "v" * 600]) == ["v" * 600]
    assert store.num_frames("v" * 509) == 2 and store.num_frames("v" * 600) == 0
    with pytest.raises(FrameStoreError, match="frame 0: not stored"):
        store.read_frames("v" * 600, [0])


# One environment per process and file (FR-13)


def test_stores_of_one_file_share_its_environment(tmp_path: Path) -> None:
    path = written(tmp_path / "s", {"v": 3, "w": 2})
    (tmp_path / "link").symlink_to(path)
    train, test = FrameStore(path), FrameStore(tmp_path / "link")
    relative = FrameStore(os.path.relpath(path))
    for _ in range(3):
        assert train.num_frames("v") == test.num_frames("v") == relative.num_frames("v") == 3
    train.close()
    del relative
    assert test.read_frames("w", [1])[0].shape == (24, 32, 3)
    assert train.num_frames("w") == 2  # opens again by itself


def test_the_environment_closes_with_its_last_store(tmp_path: Path) -> None:
    path = written(tmp_path / "s", {"v": 3})
    store = FrameStore(path)
    store.num_frames("v")
    store.close()
    with FrameStoreWriter(path) as writer:  # LMDB would refuse a second environment
        writer.put("w", [jpeg()])
    assert FrameStore(path).num_frames("w") == 1


def test_what_is_added_later_is_seen(tmp_path: Path) -> None:
    """A reader sees new data, also if its map has become too small."""
    path = written(tmp_path / "s", {"v": 1})
    store = FrameStore(path)
    assert "w" not in store
    add = (
        "import sys; from dataloaders.frame_store.writer import FrameStoreWriter\n"
        "with FrameStoreWriter(sys.argv[1]) as writer: writer.put('w', [bytes(400_000)] * 30)"
    )
    subprocess.run([sys.executable, "-c", add, str(path)], cwd=ROOT, check=True, timeout=60)
    assert store.num_frames("w") == 30 and store.num_frames("v") == 1


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = FrameStore(written(tmp_path / "s", {"v": 30}))
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.append(len(store.read_frames("v", range(30))))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [30] * 8


# Other processes (FR-15, X-05)


def _sum(store: FrameStore, results: multiprocessing.Queue[int]) -> None:
    results.put(sum(int(frame.sum()) for frame in store.read_frames("v", range(5))))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_stores_travel_to_other_processes(method: str, tmp_path: Path) -> None:
    store = FrameStore(written(tmp_path / "s", {"v": 5}))
    here = sum(int(frame.sum()) for frame in store.read_frames("v", range(5)))
    context = multiprocessing.get_context(method)
    results = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about is what we test
        process = context.Process(target=_sum, args=(store, results))
        process.start()
    assert results.get(timeout=60) == here
    process.join(timeout=60)
    assert store.num_frames("v") == 5


def test_only_the_path_is_pickled(tmp_path: Path) -> None:
    store = FrameStore(written(tmp_path / "s", {f"v{i}": 2 for i in range(300)}))
    store.num_frames("v1")
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert pickle.loads(data).num_frames("v1") == 2


def test_many_short_lives_of_readers_leave_nothing_behind(tmp_path: Path) -> None:
    """No slot in a reader table can leak, because readers use none."""
    path = written(tmp_path / "s", {"v": 2})
    store = FrameStore(path)
    store.num_frames("v")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for life in range(200):
            child = os.fork()
            if child == 0:
                done = store.num_frames("v") == 2
                if life % 10 == 0:
                    os.kill(os.getpid(), 9)
                os._exit(0 if done else 1)
            status = os.waitpid(child, 0)[1]
            assert status in (0, 9)
    assert FrameStore(path).num_frames("v") == 2
    assert not (path / "lock.mdb").exists()


def test_read_only_media_and_other_peoples_stores(tmp_path: Path) -> None:
    path = written(tmp_path / "s", {"v": 2})
    assert stat.S_IMODE((path / "data.mdb").stat().st_mode) & 0o444 == 0o444
    (path / "data.mdb").chmod(0o444)
    path.chmod(0o555)
    read = (
        "import sys; from dataloaders.frame_store.reader import FrameStore; "
        "print(FrameStore(sys.argv[1]).num_frames('v'))"
    )
    command = [sys.executable, "-c", read, str(path)]
    # For root nothing is read-only: become another user if possible.
    user = {"user": 65534} if os.getuid() == 0 and os.access(ROOT, os.X_OK) and _others_may_read(path) else {}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **user)  # type: ignore[call-overload]
    path.chmod(0o755)
    assert done.stdout.strip() == "2", done.stderr
    assert sorted(p.name for p in path.iterdir()) == ["data.mdb", METADATA_FILE]


def _others_may_read(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [*path.parents, *ROOT.parents])


def test_readers_need_no_more_address_space_than_the_data(tmp_path: Path) -> None:
    path = written(tmp_path / "s", {"v": 2})
    FrameStore(path).num_frames("v")
    environment = shared_environment(path)
    with environment.begin():
        pass
    assert environment._env is not None and environment._env.info()["map_size"] < 8 << 20


# Shards


@pytest.mark.parametrize("count", [2, 3])
def test_shards_are_one_store(count: int, tmp_path: Path) -> None:
    ids = [f"video{index}" for index in range(40)]
    for shard in range(count):
        written(tmp_path / "s" / shard_name(shard, count), {i: 4 for i in ids if shard_of(i, count) == shard})
    store = FrameStore(tmp_path / "s")
    assert store.missing([*ids, "other"]) == ["other"]
    assert sorted(store.video_ids()) == sorted(ids)
    assert store.read_frames("video7", [3])[0].shape == (24, 32, 3)
    assert pickle.loads(pickle.dumps(store)).num_frames("video9") == 4


def test_shards_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "s" / shard_name(0, 3), {"v": 1})
    with pytest.raises(FrameStoreError, match=r"incomplete: 2 of 3 shards absent \(shard-00001-of-00003"):
        FrameStore(tmp_path / "s")
    written(tmp_path / "s" / shard_name(0, 2), {"v": 1})
    with pytest.raises(FrameStoreError, match="shards of different counts"):
        FrameStore(tmp_path / "s")


def test_an_unfinished_shard_is_counted(tmp_path: Path) -> None:
    written(tmp_path / "s" / shard_name(0, 2), {"a": 1, "b": 1})
    writer = FrameStoreWriter(tmp_path / "s" / shard_name(1, 2), expected=5)
    writer.close()
    with pytest.raises(FrameStoreError, match="incomplete: 2 of 7 videos"):
        FrameStore(tmp_path / "s")
    FrameStoreWriter(tmp_path / "s" / shard_name(1, 2), overwrite=True).close()  # the number is not known
    with pytest.raises(FrameStoreError, match="incomplete: 2 of [?] videos"):
        FrameStore(tmp_path / "s")


def test_shards_with_other_settings_are_refused(tmp_path: Path) -> None:
    for shard, quality in enumerate((90, 90, 75)):
        path = tmp_path / "s" / shard_name(shard, 3)
        FrameStoreWriter(path, settings={"quality": quality}).__enter__().__exit__(None, None, None)
    with pytest.raises(FrameStoreError, match="different settings .quality 90 there, 75 elsewhere"):
        FrameStore(tmp_path / "s")


# Size


def test_looking_up_many_videos_keeps_nothing(tmp_path: Path) -> None:
    count = 20_000
    with lmdb.open(str(tmp_path / "s"), map_size=1 << 28) as env, env.begin(write=True) as txn:
        for index in range(count):
            txn.put(f"Video{index}_0".encode(), b"x")
            txn.put(f"Video{index}_1".encode(), b"x")
    store = FrameStore(tmp_path / "s")
    ids: Callable[[], list[str]] = lambda: [f"Video{index}" for index in range(count)]  # noqa: E731
    assert store.missing(ids()) == []
    size = sum(sys.getsizeof(value) for value in vars(store).values())
    assert size < 1000 and store.num_frames("Video19999") == 2
