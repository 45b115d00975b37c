"""Small splits with known rankings, for the tests of reports."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from dataloaders.examples import Examples, ExamplesBuilder
from engine.evaluation.compute_metrics import SplitMetrics, compute_metrics
from engine.evaluation.metrics import protocol_of
from engine.evaluation.similarity import MatrixTiles

BLANK = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
ENGLISH = (
    "a red circle moves left",
    "the blue <b>square</b> & a star",
    "nothing happens for a long time at all",
)
CHINESE = ("一个红色的圆向左移动", "蓝色的方块落下来了", "画面里什么也没有发生")


@pytest.fixture
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without drawing, which takes most of their time; for tests of what the page says."""
    monkeypatch.setattr("engine.report.report.png", lambda draw, *, theme: BLANK)


def examples(videos: int, *, captions: int = 1, texts: tuple[str, ...] = ENGLISH) -> Examples:
    """Videos v0, v1, ... with `captions` different captions each."""
    made = ExamplesBuilder()
    for video in range(videos):
        for number in range(captions):
            made.add(f"v{video}", f"{texts[(video + number) % len(texts)]} {video}.{number}")
    return made.build()


def scores(split: Examples, *, skill: float, seed: int = 0) -> np.ndarray:
    """Random scores [N, V]; `skill` is added to those of right pairs."""
    made = np.random.default_rng(seed).standard_normal((split.num_captions, split.num_videos))
    made[np.arange(split.num_captions), split.video_of_caption] += skill
    return made.astype(np.float32)


def measured(split: Examples, matrix: np.ndarray, **options: Any) -> tuple[SplitMetrics, MatrixTiles]:
    tiles = MatrixTiles(matrix)
    return compute_metrics(tiles, split.video_of_caption, logit_scale=1.0, **options), tiles


def result_of(split: Examples, found: SplitMetrics, **about: Any) -> dict[str, Any]:
    """What metrics.jsonl says, with settings."""
    return {
        "epoch": None,
        "dataset": "toy",
        "split": "test",
        "language": "english",
        "checkpoint": "runs/toy/pytorch_model.bin.4",
        "checkpoint_sha256": "ab" * 32,
        "videos": split.num_videos,
        "captions": split.num_captions,
        "videos_of_benchmark": split.num_videos,
        "comparable": True,
        "protocol": protocol_of(split.video_of_caption),
        **found.values,
        "intervals": found.intervals,
        "post_processing": found.post_processing,
        "settings": {"clip_model": "ViT-B/32", "use_temp": True, "use_frame_fea": True},
        **about,
    }
