"""The dataset in worker processes: every start method, shared stores, threads, memory."""

import errno
import gc
import multiprocessing
import os
import pickle
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from common.errors import FileError
from dataloaders.examples import PackedStrings
from dataloaders.frame_store.reader import FrameStore
from dataloaders.loader import EpochSampler, ShardSampler, build_loader, end_workers, start_worker
from dataloaders.video_text import VideoTextDataset
from tests.dataloaders.toy import WordTokenizer, toy_examples, write_store

VIDEOS = 6


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "toy_lmdb", {f"v{i}": 5 + i for i in range(VIDEOS)})


def dataset(store: Any, *, view: str = "pairs", **settings: Any) -> VideoTextDataset:
    return VideoTextDataset(
        toy_examples(videos=VIDEOS),
        store,
        WordTokenizer(),
        view=view,
        max_words=8,
        max_frames=3,
        image_size=16,
        **settings,
    )


def all_batches(data: VideoTextDataset, **settings: Any) -> list[dict[str, torch.Tensor]]:
    return list(build_loader(data, ShardSampler(len(data), rank=0, world_size=1), batch_size=4, **settings))


def assert_equal_batches(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


class Failing(torch.utils.data.Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 3:
            raise self.error
        return torch.zeros(2)


def failing_loader(error: Exception) -> Any:
    data: Any = Failing(error)
    sampler = ShardSampler(4, rank=0, world_size=1)
    return build_loader(data, sampler, batch_size=1, num_workers=1, multiprocessing_context="fork")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device"
            ),
            "/dev/shm: shared memory is full: lower --num_thread_reader or --batch_size, .*--shm-size",
        ),
        (OSError(errno.EMFILE, "Too many open files"), r"too many open files .*ulimit -n"),
    ],
)
def test_resources_that_run_out_in_a_worker_are_one_line(error: Exception, message: str) -> None:
    """In the middle of a run. Workers that are ended then raise no error in place of that one."""
    loader = failing_loader(error)
    with pytest.raises(FileError, match=message) as caught:
        try:
            for _ in loader:
                pass
        finally:
            end_workers()
            time.sleep(0.1)  # a handler of SIGCHLD would raise here
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_worker_are_not_explained_by_shared_memory() -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device", "/data/x"), RuntimeError("no such layer")):
        with pytest.raises((OSError, RuntimeError)) as caught:
            list(failing_loader(error))
        end_workers()  # else the tests' process waits for them at its end: they ignore signals
        assert not isinstance(caught.value, FileError)


def test_shared_memory_that_is_full_at_the_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.context.BaseContext.Queue", full)
    with pytest.raises(FileError, match="shared memory is full") as caught:
        list(failing_loader(RuntimeError()))
    assert caught.value.exit_code == 1


def test_a_dataset_that_has_read_can_be_pickled(store_path: Path) -> None:
    data = dataset(FrameStore(store_path))
    before = data[0]
    after = pickle.loads(pickle.dumps(data))[0]
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_start_method_gives_the_same_batches(store_path: Path, method: str) -> None:
    data = dataset(FrameStore(store_path), frame_sample="random", augment="frame", mlm=True)
    data[0]
    here = all_batches(data, num_workers=0)
    assert [batch["frames"].shape[0] for batch in here] == [4, 2]
    assert here[0]["frames"].dtype == torch.uint8 and here[0]["frame_mask"].dtype == torch.bool
    workers = 2 if method == "fork" else 1
    assert_equal_batches(here, all_batches(data, num_workers=workers, multiprocessing_context=method))


def test_persistent_workers_follow_the_epoch(store_path: Path) -> None:
    data = dataset(FrameStore(store_path), frame_sample="random")
    sampler = EpochSampler(VIDEOS, rank=0, world_size=1, batch_size=3, seed=0)
    loader = build_loader(data, sampler, batch_size=3, num_workers=1)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        drawn = [(epoch, int(index)) for batch in loader for index in batch["index"]]
        assert drawn == list(sampler)


def test_one_store_in_two_datasets_of_a_process(store_path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store_path)
    train = dataset(FrameStore(store_path))
    test = dataset(FrameStore(link), view="videos")
    relative = dataset(FrameStore(os.path.relpath(store_path)), view="videos")
    expected = [test[i]["frames"] for i in range(VIDEOS)]
    for index in range(VIDEOS):
        assert torch.equal(train[index]["frames"], expected[index])
        assert torch.equal(relative[index]["frames"], test[index]["frames"])
    del train, relative
    assert torch.equal(test[0]["frames"], expected[0])


def test_frames_enter_as_rgb(tmp_path: Path) -> None:
    from dataloaders.frame_store.writer import FrameStoreWriter

    blue = np.zeros((32, 32, 3), dtype=np.uint8)
    blue[..., 0] = 255  # OpenCV's order
    with FrameStoreWriter(tmp_path / "store") as writer:
        for index in range(VIDEOS):
            writer.put(f"v{index}", [cv2.imencode(".jpg", blue)[1].tobytes()])
    frame = dataset(FrameStore(tmp_path / "store"), view="videos")[0]["frames"][0]
    assert frame[2].min() > 240 and frame[:2].max() < 15


def test_workers_survive_opencv_threads_in_the_parent(store_path: Path) -> None:
    """X-03: a forked child must not wait for the threads that OpenCV started in its parent."""
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.resize(np.zeros((4000, 4000, 3), np.uint8), (1000, 1000), interpolation=cv2.INTER_AREA)
        data = dataset(FrameStore(store_path))
        batches = all_batches(data, num_workers=2, multiprocessing_context="fork")
    finally:
        cv2.setNumThreads(threads)
    assert len(batches) == 2


class ThreadCounter(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        cv2.resize(np.zeros((3000, 3000, 3), np.uint8), (1000, 1000), interpolation=cv2.INTER_AREA)
        return {"cv2": cv2.getNumThreads(), "torch": torch.get_num_threads(), "frozen": gc.get_freeze_count()}


def test_workers_use_one_thread() -> None:
    cv2.resize(np.zeros((4000, 4000, 3), np.uint8), (1000, 1000), interpolation=cv2.INTER_AREA)
    loader = build_loader(ThreadCounter(), ShardSampler(2, rank=0, world_size=1), batch_size=1, num_workers=1)
    for batch in loader:
        assert int(batch["cv2"]) <= 1 and int(batch["torch"]) == 1 and int(batch["frozen"]) > 0


def own_memory() -> int:
    """Bytes of changed pages that only this process has."""
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("Private_Dirty:"))


def read_all(captions: Sequence[str] | PackedStrings, answer: Connection) -> None:
    start_worker(0)
    before = own_memory()
    for index in range(len(captions)):
        len(captions[index])
    answer.send(own_memory() - before)


def pages_copied(captions: Sequence[str] | PackedStrings) -> int:
    """Bytes that a forked worker copies while it reads every caption."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=read_all, args=(captions, there))
    worker.start()
    copied = here.recv()
    worker.join()
    return copied


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's memory accounting")
def test_captions_stay_shared_with_workers() -> None:
    """FR-39 on a small scale: reading a list of strings copies it (16 MB), packed captions are not copied."""
    text = "a caption as long as those of a data set with ten sentences for each of its videos, number "
    strings = [f"{text}{number:07d}" for number in range(100_000)]
    assert pages_copied(PackedStrings.from_iterable(strings)) < 3_000_000
    assert pages_copied(strings) > 10_000_000
