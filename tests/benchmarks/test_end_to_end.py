"""Figures of a whole run from its steps.jsonl, and the data set that the benchmark makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import end_to_end
from dataloaders.datasets.registry import read_examples
from dataloaders.frame_store.reader import FrameStore
from engine.config import Config
from engine.input_files import training_files


def record(rate: float, waiting: float) -> dict[str, Any]:
    return {"clips_per_second": rate, "waiting": waiting, "memory_bytes": 3 << 30}


def test_the_first_report_is_the_warm_up_and_times_add_up() -> None:
    steps = [record(1.0, 1.0), record(100.0, 0.0), record(300.0, 0.5)]
    figures = end_to_end.figures_of(steps, 256, start=4.0, total=9.0)
    assert figures["clips_per_second"] == pytest.approx(150.0)  # 1/100 + 1/300 seconds a clip, over two
    assert figures["waiting"] == 0.25 and figures["memory_gib"] == 3.0 and figures["reports"] == 2
    assert figures["estimate_minutes"] == pytest.approx(899_840 / 150 / 60)
    assert end_to_end.figures_of(steps[:1], 4, start=0, total=0)["clips_per_second"] == 1.0


def test_the_data_set_is_one_of_msrvtt(tmp_path: Path) -> None:
    end_to_end.make_data(tmp_path, train=3, frames=2)
    config = Config(do_train=True, dataset="msrvtt", data_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    examples = read_examples("msrvtt", "train", language="english", files=training_files(config))
    assert (examples.num_videos, examples.num_captions) == (3, 60)
    store = FrameStore(tmp_path / "msrvtt" / "msrvtt_lmdb")
    assert store.num_frames("video2") == 2
    assert store.read_frames("video2", [1])[0].shape == (256, 341, 3)
