"""An error on one rank ends the others within seconds, each with one line (FR-45)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from tests.e2e.conftest import Toy
from tests.processes import fast_python, free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 90


BROKEN = """
import importlib, os, sys
from common.errors import UserError
from engine.program import end_process
from main_task_retrieval import main

place, rank = sys.argv[1:3]
if os.environ["RANK"] == rank:
    module, _, name = place.rpartition(".")
    def broken(*args, **kwargs):
        raise UserError(f"{name} does not work here")
    setattr(importlib.import_module(module), name, broken)
sys.argv[0] = "main_task_retrieval.py"
end_process(main(sys.argv[3:]))
"""


def two_ranks(
    toy: Toy, output: Path, *flags: str, program: Sequence[str] = (str(ROOT / "main_task_retrieval.py"),)
) -> list[subprocess.CompletedProcess[str]]:
    """Fine-tuning on two ranks without a launcher, which would end the others itself."""
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    argv = [fast_python(), *program, "--do_train", "--output_dir", str(output)]
    argv += [*toy.flags, "--dataset", "msrvtt", "--language", "english", *flags]
    ranks = [
        subprocess.Popen(
            argv,
            cwd=ROOT,
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
    assert ranks[1 - unlucky].returncode == 1
    assert f"stopped: rank {unlucky} ended: " in lines[1 - unlucky] and broken in lines[1 - unlucky]


@pytest.mark.parametrize(
    ("place", "unlucky"),
    [
        ("engine.run.build_model", 0),
        ("engine.frame_sources.exclude_missing", 0),
        ("engine.data.VideoTextDataset", 1),
        ("engine.run.wrap", 1),
    ],
)
def test_a_step_of_the_start_that_fails_on_one_rank(
    place: str, unlucky: int, toy: Toy, tmp_path: Path
) -> None:
    """The other rank waits: in a barrier, a broadcast, the constructor of DDP."""
    ranks = two_ranks(toy, tmp_path / "out", program=("-c", BROKEN, place, str(unlucky)))
    lines = last_lines(ranks)
    message = f"{place.rpartition('.')[2]} does not work here"
    assert ranks[unlucky].returncode == 2 and lines[unlucky].endswith(f"error: {message}")
    assert ranks[1 - unlucky].returncode == 1
    assert lines[1 - unlucky].endswith(f"stopped: rank {unlucky} ended: {message}")
    if unlucky == 1:  # rank 0 writes the log
        assert message in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
