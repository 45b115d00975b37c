"""Bad numbers, bad clips, full disks, killed loaders: what is skipped, what is counted, what ends the run."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import engine.checkpoint.state_writer
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from engine.training.trainer import Trainer
from modules.retrieval_model import RetrievalModel
from tests.e2e.conftest import Toy
from tests.e2e.test_resume import assert_same_run, records
from tests.e2e.test_signals import FLAGS, before, whole  # noqa: F401


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    return error.splitlines()[-1]


def spoil_losses(calls: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of these training steps become NaN."""
    original, seen = RetrievalModel.losses, [0]

    def losses(self: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        seen[0] += 1
        values = original(self, *args, **kwargs)
        return {n: v * float("nan") for n, v in values.items()} if seen[0] in calls else values

    monkeypatch.setattr(RetrievalModel, "losses", losses)


def test_a_step_that_is_not_finite_is_skipped(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses({3}, monkeypatch)
    assert toy.run("train", tmp_path, *FLAGS) == 0
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    (line,) = [line for line in log.splitlines() if "skipped epoch 1 step 3" in line]
    assert line.count("video") == 4, "the ids of the batch"
    assert records(tmp_path)[-1]["skipped_steps"] == 1
    state = torch.load(tmp_path / "training_state.18.pt", weights_only=True)
    assert state["optimizer"]["step"] == 18, "the schedule goes on"
    assert state["counters"]["skipped"] == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_too_many_of_them_end_the_run_naming_the_last_state(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_losses({5, 6, 7}, monkeypatch)
    assert toy.run("train", tmp_path, *FLAGS, "--save_steps", "4", "--max_bad_steps", "3") == 1
    line = last_line(capsys)
    assert "stopped: 3 steps in a row were not finite" in line and line.count("video") >= 4
    assert f"the last good state is {tmp_path / 'training_state.4.pt'}" in line
    assert line.partition("stopped: ")[2] in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.fixture
def broken_store(toy: Toy, tmp_path: Path) -> tuple[Path, str]:
    """(a copy of the store in which one training video is damaged, its id)."""
    whole_store = FrameStore(toy.data / "msrvtt" / "msrvtt_lmdb")
    broken = "video3"
    with FrameStoreWriter(tmp_path / "lmdb") as writer:
        for video_id in whole_store.video_ids():
            jpegs = whole_store.read_jpegs(video_id, range(whole_store.num_frames(video_id)))
            writer.put(video_id, [jpeg[: len(jpeg) // 3] for jpeg in jpegs] if video_id == broken else jpegs)
        writer.finish()
    return tmp_path / "lmdb", broken


def test_unreadable_clips_are_counted_over_the_run_and_its_restarts(
    toy: Toy, tmp_path: Path, broken_store: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    store, broken = broken_store
    flags = (*FLAGS, "--train_store", str(store))
    assert toy.run("train", tmp_path / "whole", *flags) == 0
    total = records(tmp_path / "whole")[-1]["unreadable_clips"]
    assert total > 1
    with monkeypatch.context() as patch:
        stop = lambda n: os.kill(os.getpid(), signal.SIGTERM) if n == 9 else None  # noqa: E731
        before(Trainer, "_optimiser_step", stop, patch)
        assert toy.run("train", tmp_path / "out", *flags) == 0
    assert toy.run("train", tmp_path / "out", *flags, "--resume", "auto") == 0
    assert_same_run(tmp_path / "out", tmp_path / "whole")
    limit = ("--max_bad_samples", str(total - 1))
    assert toy.run("train", tmp_path / "limited", *flags, *limit) == 1
    line = last_line(capsys)
    assert f"{total} clips could not be read (--max_bad_samples {total - 1})" in line
    assert f"the last ones of {broken};" in line and "training_state.9.pt" in line


def test_a_full_disk_ends_the_run_with_the_last_state_intact(
    whole: Path,  # noqa: F811
    toy: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A limit on file sizes fails as a full disk does, halfway through the file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(call: int) -> None:
        if call == 2:
            size = (tmp_path / "training_state.3.pt").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))

    with monkeypatch.context() as patch:
        before(engine.checkpoint.state_writer, "write_state", limit, patch)
        try:
            assert toy.run("train", tmp_path, *FLAGS, "--save_steps", "3") == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = last_line(capsys)
    assert "training_state.6.pt: cannot be written" in line
    assert f"the last good state is {tmp_path / 'training_state.3.pt'}" in line
    assert not list(tmp_path.glob("*.tmp"))
    assert toy.run("train", tmp_path, *FLAGS, "--resume", "auto", "--save_steps", "3") == 0
    assert_same_run(tmp_path, whole)


def test_a_killed_loader_process_is_one_line(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("no list of child processes on this system")

    def kill_one(call: int) -> None:
        if call == 3:
            os.kill(int(children.read_text(encoding="utf-8").split()[-1]), signal.SIGKILL)

    before(Trainer, "_optimiser_step", kill_one, monkeypatch)
    flags = ("--num_thread_reader", "1", "--epochs", "9")
    assert toy.run("train", tmp_path, *FLAGS, *flags) == 1
    line = last_line(capsys)
    # What torch sees first, the dead process or its broken pipe, is a race; unit tests have each wording.
    assert "stopped: loader process" in line and "--num_thread_reader" in line
