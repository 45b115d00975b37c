"""The exact score: the same as in evaluation, in blocks, with ties in the order of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modules.heads.hmmc import hmmc_similarity
from search import scoring
from search.rows import FeatureRows
from search.scoring import score_rows
from tests.search.synthetic import features, unit


@pytest.mark.parametrize("top_frames", [1, 2, 6, 9])
@pytest.mark.parametrize("block", [7, 4096])
def test_scores_and_order_are_those_of_evaluation(
    top_frames: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BLOCK", block)
    video, frames = (array.astype(np.float16) for array in features(100))
    query = unit(np.random.default_rng(3).standard_normal(32)).astype(np.float32)
    rows = np.arange(5, 95)
    found = score_rows(FeatureRows(video, frames), rows, query, top=12, top_frames=top_frames, frame_weight=1)
    expected = hmmc_similarity(
        torch.from_numpy(query)[None],
        torch.from_numpy(video[rows]),
        torch.from_numpy(frames[rows]),
        top_frames=top_frames,
        logit_scale=1.0,
    )[0].numpy()
    order = np.argsort(-expected)[:12]
    np.testing.assert_array_equal(found.rows, rows[order])
    np.testing.assert_allclose(found.total, expected[order], atol=1e-3)
    np.testing.assert_allclose(found.total, found.video + found.frame, atol=1e-5)


def test_equal_scores_come_in_the_order_of_rows() -> None:
    video, frames = (np.repeat(array[:1], 20, axis=0).astype(np.float16) for array in features(1))
    query = video[0].astype(np.float32)
    found = score_rows(
        FeatureRows(video, frames), np.arange(20)[::-1], query, top=5, top_frames=2, frame_weight=1.0
    )
    assert found.rows.tolist() == [0, 1, 2, 3, 4]


def test_without_weight_frames_do_not_count() -> None:
    video, frames = (array.astype(np.float16) for array in features(50))
    query = video[7].astype(np.float32)
    found = score_rows(
        FeatureRows(video, frames), np.arange(50), query, top=50, top_frames=2, frame_weight=0.0
    )
    np.testing.assert_array_equal(found.rows, np.argsort(-(video.astype(np.float32) @ query), kind="stable"))
