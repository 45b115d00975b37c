"""Ranks against a naive count, the golden figures of the published code, and the cases that broke it."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.metrics import caption_set_scores, ranks_of_targets, retrieval_metrics, summarise

GOLDEN = Path(__file__).parents[1] / "golden"


def naive_ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean position over all ways to break ties, by counting."""
    ranks = []
    for row, target in zip(scores, targets, strict=True):
        rivals = [s for i, s in enumerate(row) if i != target]
        best = 1 + sum(s > row[target] for s in rivals)
        worst = best + sum(s == row[target] for s in rivals)
        ranks.append((best + worst) / 2)
    return np.array(ranks)


@pytest.mark.parametrize("seed", range(20))
def test_ranks_equal_a_naive_count_with_many_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, size=(13, 7)).astype(np.float32)
    targets = rng.integers(0, 7, size=13)
    np.testing.assert_array_equal(ranks_of_targets(scores, targets), naive_ranks(scores, targets))


def test_golden_single_caption() -> None:
    golden = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["metrics/single"]
    sim = np.load(GOLDEN / "golden.npz")["metrics/single_sim"]
    ours = retrieval_metrics(sim, np.arange(len(sim)))
    for direction in ("t2v", "v2t"):
        for k in (1, 5, 10):
            assert ours[f"{direction}/R@{k}"] == pytest.approx(golden[direction][f"R{k}"])
        assert ours[f"{direction}/MedianR"] == golden[direction]["MR"]
        assert ours[f"{direction}/MeanR"] == pytest.approx(golden[direction]["MeanR"])


def test_golden_several_captions() -> None:
    golden = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["metrics/multi"]
    data = np.load(GOLDEN / "golden.npz")
    owner = np.repeat(np.arange(20), data["metrics/multi_caption_counts"])
    ours = retrieval_metrics(data["metrics/multi_sim"], owner)
    for direction in ("t2v", "v2t"):
        for k in (1, 5, 10):
            assert ours[f"{direction}/R@{k}"] == pytest.approx(golden[direction][f"R{k}"], rel=1e-6)
        assert ours[f"{direction}/MedianR"] == golden[direction]["MR"]
        assert ours[f"{direction}/MeanR"] == pytest.approx(golden[direction]["MeanR"])


def test_a_constant_matrix_is_never_better_than_chance() -> None:
    ours = retrieval_metrics(np.ones((4, 4), np.float32), np.arange(4))
    assert ours["t2v/R@1"] == 0.0
    assert ours["t2v/MeanR"] == 2.5
    assert ours["v2t/MeanR"] == 2.5


def test_every_query_has_exactly_one_rank_with_infinite_scores() -> None:
    scores = np.array([[-np.inf, -np.inf, -np.inf], [1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(ranks_of_targets(scores, np.array([0, 2])), [2.0, 1.0])


def test_one_by_one_is_rank_one() -> None:
    assert ranks_of_targets(np.array([[0.3]]), np.array([0]))[0] == 1.0


def test_half_precision_ties_are_ties() -> None:
    scores = np.array([[0.5, 0.5, 0.1]], dtype=np.float16)
    assert ranks_of_targets(scores, np.array([0]))[0] == 1.5


def test_nan_names_the_query() -> None:
    scores = np.array([[0.1, 0.2], [np.nan, 0.2]])
    with pytest.raises(ValueError, match="query 41 is NaN"):
        ranks_of_targets(scores, np.array([0, 1]), queries=np.array([40, 41]))


def test_permuting_columns_with_their_labels_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, size=(12, 12)).astype(np.float32)
    order = rng.permutation(12)
    moved = np.argsort(order)
    np.testing.assert_array_equal(
        ranks_of_targets(scores, np.arange(12)), ranks_of_targets(scores[:, order], moved[np.arange(12)])
    )


def test_several_captions_example() -> None:
    """FR-46: the best caption of a video counts, in any order of the captions."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.5]])
    owner = np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(ranks_of_targets(scores, owner), [1, 2, 1, 2])
    ours = retrieval_metrics(scores, owner)
    assert ours["t2v/R@1"] == 50.0 and ours["t2v/MeanR"] == 1.5 and ours["t2v/MedianR"] == 1.5
    shuffle = np.array([3, 1, 0, 2])
    assert retrieval_metrics(scores[shuffle], owner[shuffle]) == ours
    best, videos = caption_set_scores(scores.T, owner)
    np.testing.assert_array_equal(videos, [0, 1])
    np.testing.assert_array_equal(ranks_of_targets(best, np.arange(2)), [1, 2])


def test_three_better_captions_of_one_rival_cost_one_rank() -> None:
    scores = np.array([[0.9, 0.6], [0.2, 0.8], [0.7, 0.7], [0.1, 0.5]])
    best, _ = caption_set_scores(scores.T, np.array([0, 0, 0, 1]))
    assert ranks_of_targets(best, np.arange(2))[1] == 2.0


def test_nothing_to_rank_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to rank"):
        summarise(np.array([]), direction="t2v")
