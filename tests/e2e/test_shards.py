"""Training from tar shards: made by the tool, on two ranks, over HTTP, killed and resumed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import main_pretrain
from engine.checkpoint.state_writer import SavingHooks
from engine.process.step_status import StepStatus
from tests.dataloaders.tar_shards.http_server import serving
from tests.e2e.conftest import Toy
from tests.e2e.test_resume import assert_same_run
from tests.processes import free_port, ranks_of, run_ranks
from tools import make_shards

PRETRAIN = ("pretrain", "--dataset", "chvtt", "--language", "chinese", "--use_temp", "--use_frame_fea")
SAVING = ("--epochs", "2", "--save_steps", "2", "--batch_size", "4", "--select_on", "last")


class Killed(BaseException):
    """Ends a run as a kill would: no handler of exceptions catches it."""


@pytest.fixture(scope="module")
def shards(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CHVTT's 12 toy videos in shards of 5, 5 and 2."""
    out = tmp_path_factory.mktemp("shards") / "chvtt"
    flags = ["--dataset", "chvtt", "--split", "pretrain", "--data_dir", str(toy.data), "--samples", "5"]
    assert make_shards.main(["--out", str(out), *flags]) == 0
    return out


def run(toy: Toy, out: Path, shards: str, *flags: str) -> int:
    return toy.run(*PRETRAIN[:1], out, *PRETRAIN[1:], *SAVING, "--shards", shards, *flags)


def log_of(out: Path) -> str:
    return (out / "log.txt").read_text(encoding="utf-8")


def test_killed_in_the_middle_of_an_epoch_and_resumed(
    toy: Toy, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(toy, whole, str(shards)) == 0
    assert "from 3 shards: 12 samples" in log_of(whole)
    original = SavingHooks.after_step

    def after_step(self: SavingHooks, epoch: int, step: int, status: StepStatus) -> None:
        if (epoch, step) == (0, 3):
            raise Killed
        original(self, epoch, step, status)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SavingHooks, "after_step", after_step)
        run(toy, out, str(shards))
    # Over HTTP, and read by a process of its own: neither changes what is trained.
    with serving({path.name: path.read_bytes() for path in shards.iterdir()}) as server:
        assert run(toy, out, f"{server.address}/*.tar", "--resume", "auto") == 2  # it cannot be listed
        source = f"{server.address}/{{000000..000002}}.tar"
        assert run(toy, out, source, "--resume", "auto", "--num_thread_reader", "1") == 0
    assert_same_run(out, whole)


def train_on_rank(rank: int, port: str, argv: list[str]) -> None:
    """One rank of two; ends its process."""
    here = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in here.items()})
    raise SystemExit(main_pretrain.main(argv))


def test_two_ranks_are_killed_and_resumed(toy: Toy, shards: Path, tmp_path: Path) -> None:
    def argv(out: Path, *flags: str) -> list[str]:
        return ["--do_pretrain", "--output_dir", str(out), *toy.flags, *PRETRAIN[1:], *SAVING, *flags]

    flags = ("--shards", str(shards), "--shard_readers", "4")
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_ranks(train_on_rank, 2, free_port(), argv(whole, *flags))
    with ranks_of(train_on_rank, 2, free_port(), argv(out, *flags)) as ranks:
        while not list(out.glob("training_state.2.*")):
            assert all(process.poll() is None for process in ranks)
            time.sleep(0.01)
        for process in ranks:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert not (out / "metrics.jsonl").exists()
    run_ranks(
        train_on_rank, 2, free_port(), argv(out, *flags, "--resume", "auto", "--num_thread_reader", "1")
    )
    assert_same_run(out, whole)
