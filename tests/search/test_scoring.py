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


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("share", [1.0, 0.2])  # most rows are read in order, a few are picked
def test_the_best_of_many_rows_are_exact(
    share: float, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BLOCK", 333)
    monkeypatch.setattr(scoring, "_IN_ORDER", 512)
    rng = np.random.default_rng(0)
    # As of a trained model: all cosines are close together.
    base = unit(rng.standard_normal(64))
    frames = unit(base + 0.2 * unit(rng.standard_normal((3000, 6, 64)))).astype(np.float16)
    video = unit(base + 0.2 * unit(rng.standard_normal((3000, 64)))).astype(np.float16)
    rows = np.sort(rng.choice(3000, int(3000 * share), replace=False))
    for query in unit(base + 0.3 * unit(rng.standard_normal((10, 64)))).astype(np.float32):
        found = score_rows(FeatureRows(video, frames), rows, query, top=10, top_frames=2, frame_weight=weight)
        each = np.sort(frames[rows].astype(np.float32) @ query, axis=1)[:, -2:].mean(axis=1)
        expected = video[rows].astype(np.float32) @ query + weight * each
        best = np.lexsort((rows, -expected))[:10]
        np.testing.assert_allclose(found.total, expected[best], atol=1e-5)
        assert set(found.rows) == set(rows[best])


def test_products_in_half_precision_are_as_exact_as_the_bound_says() -> None:
    rng = np.random.default_rng(1)
    video, frames = (array.astype(np.float16) for array in features(500))
    rows = FeatureRows(video, frames)
    for query in unit(rng.standard_normal((20, 32))).astype(np.float32):
        rough = scoring._rough_scores(rows, slice(0, 500), torch.from_numpy(query).half(), 2, 1.0)
        exact = score_rows(rows, np.arange(500), query, top=500, top_frames=2, frame_weight=1.0)
        assert np.abs(rough[exact.rows] - exact.total).max() < 2 * scoring._HALF_ERROR
