"""An error on one rank ends the others within seconds, each with one line (FR-45)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from tests.e2e.conftest import Toy
from tests.processes import fast_python, free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 90


def two_ranks(toy: Toy, output: Path, *flags: str) -> list[subprocess.CompletedProcess[str]]:
    """Fine-tuning on two ranks without a launcher, which would end the others itself."""
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    argv = [fast_python(), str(ROOT / "main_task_retrieval.py"), "--do_train", "--output_dir", str(output)]
    argv += [*toy.flags, "--dataset", "msrvtt", "--language", "english", *flags]
    ranks = [
        subprocess.Popen(
            argv,
            env={
                **os.environ,
                **shared,
                "CUDA_VISIBLE_DEVICES": "",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for rank in (0, 1)
    ]
    end = time.monotonic() + LIMIT_S
    try:
        done = [rank.communicate(timeout=max(1.0, end - time.monotonic())) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [
        subprocess.CompletedProcess(argv, rank.returncode, out, err)
        for rank, (out, err) in zip(ranks, done, strict=True)
    ]


def last_lines(ranks: list[subprocess.CompletedProcess[str]]) -> list[str]:
    assert not any("Traceback" in rank.stderr for rank in ranks), ranks
    return [rank.stderr.strip().splitlines()[-1] for rank in ranks]


def test_an_output_folder_that_cannot_be_written(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    ranks = two_ranks(toy, tmp_path / "out")
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert all("--output_dir" in line for line in last_lines(ranks))


@pytest.mark.parametrize("unlucky", [0, 1])
def test_a_test_video_that_one_rank_cannot_read(unlucky: int, toy: Toy, tmp_path: Path) -> None:
    whole = FrameStore(toy.data / "msrvtt" / "msrvtt_lmdb")
    broken = ("video12", "video19")[unlucky]  # the first and the last of the test list
    with FrameStoreWriter(tmp_path / "lmdb") as writer:
        for video_id in whole.video_ids():
            jpegs = whole.read_jpegs(video_id, range(whole.num_frames(video_id)))
            writer.put(video_id, [jpeg[: len(jpeg) // 3] for jpeg in jpegs] if video_id == broken else jpegs)
        writer.finish()
    ranks = two_ranks(toy, tmp_path / "out", "--eval_store", str(tmp_path / "lmdb"))
    lines = last_lines(ranks)
    assert ranks[unlucky].returncode == 2 and broken in lines[unlucky]
    assert ranks[1 - unlucky].returncode == 1 and "another rank" in lines[1 - unlucky]
