"""Runs without a frame store: the same numbers as from one, in workers, on two ranks, after a kill."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dataloaders.frame_store.reader import FrameStore
from engine.checkpoint.state_writer import SavingHooks
from engine.process.step_status import StepStatus
from tests.e2e.conftest import Toy
from tests.processes import free_port, run_ranks
from tools import frame2lmdb

DATA = ("--dataset", "msrvtt", "--language", "english")
RUN = (*DATA, "--epochs", "2", "--save_steps", "2", "--select_on", "test")
TIMES = ("clips_per_second", "clips_per_second_per_rank", "waiting", "memory_bytes", "seconds")
LOG = "log.txt"


def videos(toy: Toy) -> list[str]:
    """The flags that give the frames of the toy's store."""
    folder = str(toy.data / "msrvtt" / "videos")
    return ["--frames_from", "videos", "--video_dir", folder, "--num_frames", "12"]


def losses(out: Path) -> list[dict[str, Any]]:
    lines = (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [{n: v for n, v in json.loads(line).items() if n not in TIMES} for line in lines]


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{n: v for n, v in json.loads(line).items() if not n.startswith("checkpoint")} for line in lines]


@pytest.fixture(scope="module")
def from_store(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "out"
    assert toy.run("train", out, *RUN) == 0
    return out


def test_a_training_gives_the_same_numbers_as_from_the_store(
    toy: Toy, from_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    original = SavingHooks.after_step

    def after_step(self: SavingHooks, epoch: int, step: int, status: StepStatus) -> None:
        if (epoch, step) == (1, 5):
            raise Killed
        original(self, epoch, step, status)

    cache, out = tmp_path / "cache", tmp_path / "out"
    flags = (*RUN, *videos(toy), "--frame_cache", str(cache), "--num_thread_reader", "2")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SavingHooks, "after_step", after_step)
        toy.run("train", out, *flags)
    assert list((cache / "loose").rglob("*.zip"))
    assert toy.run("train", out, *flags, "--resume", "auto") == 0
    assert losses(out) == losses(from_store) and metrics(out) == metrics(from_store)
    # The cache is a store now: the same as tools/frame2lmdb.py made.
    assert frame2lmdb.main(["verify", str(cache)]) == 0
    ours, theirs = FrameStore(cache), FrameStore(toy.data / "msrvtt" / "msrvtt_lmdb")
    assert list(ours.video_ids()) == list(theirs.video_ids())
    for video_id in theirs.video_ids():
        assert ours.read_jpegs(video_id, range(12)) == theirs.read_jpegs(video_id, range(12))
        assert ours.manifest(video_id) == theirs.manifest(video_id)
    again = tmp_path / "again"
    assert toy.run("eval", again, *DATA, "--eval_store", str(cache)) == 0


def train_twice(rank: int, toy: Toy, out: Path, ports: dict[str, str]) -> None:
    """One rank of two trainings, from the store and from videos."""
    cached = ["--frame_cache", str(out / "cache"), "--num_thread_reader", "1"]
    for name, flags in (("store", []), ("videos", [*videos(toy), *cached])):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": ports[name]}
        os.environ.update(place, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
        assert toy.run("train", out / name, *DATA, *flags) == 0


def test_two_ranks_that_fill_one_cache_give_the_same_numbers(toy: Toy, tmp_path: Path) -> None:
    run_ranks(train_twice, 2, toy, tmp_path, {"store": free_port(), "videos": free_port()})
    assert losses(tmp_path / "videos") == losses(tmp_path / "store")
    assert len(list(FrameStore(tmp_path / "cache").video_ids())) == 20


def test_bad_videos_are_missing_in_an_evaluation_and_replaced_in_a_training(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(toy.data / "msrvtt" / "videos", folder)
    trained = json.loads((toy.data / "msrvtt" / "MSRVTT_data.json").read_text(encoding="utf-8"))
    listed = (toy.data / "msrvtt" / "MSRVTT_JSFUSION_test.csv").read_text(encoding="utf-8")
    tested = listed.splitlines()[1].split(",")[2]
    other = next(v["video_id"] for v in trained["videos"] if v["video_id"] not in listed)
    for name in (tested, other):
        (folder / f"{name}.mp4").write_bytes(b"no video")
    flags = [*DATA, *videos(toy), "--video_dir", str(folder)]
    assert toy.run("eval", tmp_path / "refused", *flags) == 2
    text = capsys.readouterr().err
    assert f"1 of 8 videos are absent from the video folder: {tested}; 1 of them do not decode" in text
    assert toy.run("train", tmp_path / "out", *flags, "--allow_missing") == 0
    log = (tmp_path / "out" / LOG).read_text(encoding="utf-8")
    assert f"1 of 12 inspected videos do not decode: {other}: unopenable" in log
    assert metrics(tmp_path / "out")[-1]["videos"] == 7


def test_wrong_flags_and_folders_are_refused(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for flags, message in (
        (["--frames_from", "videos"], "--frames_from videos: --video_dir must name the folder"),
        (["--video_dir", str(empty)], f"--video_dir {empty}: is for --frames_from videos"),
        ([*videos(toy), "--quality", "101"], "--quality 101: must be from 1 to 100"),
        ([*videos(toy), "--video_timeout", "0"], "--video_timeout 0: must be above 0 seconds"),
        ([*videos(toy), "--train_store", "x"], "--train_store x: --frames_from videos reads --video_dir"),
        ([*videos(toy), "--video_dir", str(tmp_path / "no")], "no: no such folder of videos"),
        (
            [*videos(toy), "--video_dir", str(empty)],
            "empty: 8 of 8 videos are absent from the video folder: ",
        ),
    ):
        assert toy.run("eval", tmp_path / "out", *DATA, *flags) == 2
        assert message in capsys.readouterr().err
