"""Toy data in all three file formats with their frame stores, made once a run; short ways to run programs.

No test changes the data: the processes of the tests share them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import main_pretrain
import main_task_retrieval
from modules.backbones import tokenizers
from tests import one_run
from tools import frame2lmdb
from tools.make_toy_dataset import SIZES, WRITERS, make_toy_dataset
from tools.toy.field_annotations import FIELD_WRITERS

# CLIP's vocabulary with narrow vectors: they are most of the weights, and of each step's time.
SMALL_CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
STORES = (
    ("msrvtt", "msrvtt_lmdb", "videos.jsonl", 12),
    ("vatex", "vatex_lmdb", "videos.jsonl", 12),
    ("chvtt", "videoinfo_lmdb", "videoinfo_videos.jsonl", 16),
    ("chvtt", "query_lmdb", "query_videos.jsonl", 16),
    *((name, f"{name}_lmdb", "videos.jsonl", 12) for name in FIELD_WRITERS),
)
plain_text_bpe = functools.cache(tokenizers._plain_text_bpe)  # to read it takes longer than a short run
PROGRAMS = {
    "pretrain": main_pretrain.main,
    "train": main_task_retrieval.main,
    "eval": main_task_retrieval.main,
}


@dataclass(frozen=True)
class Toy:
    """The toy data folder and the flags that every run on it shares."""

    data: Path
    clip: Path

    @property
    def flags(self) -> list[str]:
        return [
            *("--data_dir", str(self.data), "--clip_model", str(self.clip), "--clip_weights", "none"),
            *("--pretrained_text", str(self.data / "toy-bert"), "--num_thread_reader", "0"),
            *(
                "--max_frames",
                "4",
                "--batch_size",
                "4",
                "--batch_size_val",
                "8",
                "--epochs",
                "1",
                "--n_display",
                "1",
            ),
            *("--contrast_num_negative", "10", "--top_frames", "2"),
            # Drawing takes seconds: tests of the report ask for it.
            *("--no-report", "--bootstrap", "0"),
        ]

    def run(self, job: str, output: Path, *flags: str) -> int:
        """Run a job ('pretrain', 'train', 'eval') in this process; `flags` win over the shared ones."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenizers, "_plain_text_bpe", plain_text_bpe)
            return PROGRAMS[job]([f"--do_{job}", "--output_dir", str(output), *self.flags, *flags])


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Small tensors: a second thread only waits, and the launcher's tests run two processes beside this one.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy() -> Toy:
    root = one_run.made_once("toy", make_toy)
    return Toy(root / "data", root / "small_clip.json")


def make_toy(root: Path) -> None:
    data = root / "data"
    make_toy_dataset(data, seed=0, sizes=SIZES["tiny"], parts=(*WRITERS, "toy-bert"))
    for dataset, store, videos, frames in STORES:
        code = frame2lmdb.main(
            [
                *("--video_dir", str(data / dataset / "videos"), "--lmdb_path", str(data / dataset / store)),
                *("--json_path", str(data / dataset / videos), "--num_frames", str(frames)),
                *("--num_workers", "1"),
            ]
        )
        assert code == 0
    (root / "small_clip.json").write_text(json.dumps(SMALL_CLIP), encoding="utf-8")


@pytest.fixture(scope="session")
def results() -> Callable[[Path], list[dict[str, Any]]]:
    def read(output: Path) -> list[dict[str, Any]]:
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return read
