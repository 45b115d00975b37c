"""Metrics against the golden values of the published code, against other libraries, and in edge cases."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from engine.evaluation.metrics import all_metrics, format_metrics, protocol_of, summarise
from engine.evaluation.ranking import Rankings, rank_tiles
from engine.evaluation.ranks import single_ranks
from engine.evaluation.similarity import MatrixTiles
from tests.engine.evaluation.naive_ranking import naive_t2v, naive_v2t

GOLDEN = Path(__file__).parents[2] / "golden"


def ranked(scores: np.ndarray, owner: np.ndarray) -> Rankings:
    return rank_tiles(MatrixTiles(scores), owner)


@pytest.mark.parametrize("seed", range(20))
def test_ranks_of_a_matrix_with_many_ties_equal_a_naive_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, size=(13, 7)).astype(np.float32)
    owner = rng.integers(0, 7, size=13)
    rankings = ranked(scores, owner)
    np.testing.assert_array_equal(rankings.t2v.expected, naive_t2v(scores, owner))
    np.testing.assert_array_equal(rankings.v2t.expected, naive_v2t(scores, owner))


@pytest.mark.parametrize("name", ["single", "multi"])
def test_golden(name: str) -> None:
    golden = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))[f"metrics/{name}"]
    data = np.load(GOLDEN / "golden.npz")
    scores = data[f"metrics/{name}_sim"]
    counts = data["metrics/multi_caption_counts"] if name == "multi" else np.ones(len(scores), int)
    ours = all_metrics(ranked(scores, np.repeat(np.arange(len(counts)), counts)))
    for direction in ("t2v", "v2t"):
        for k in (1, 5, 10):
            assert ours[f"{direction}/R@{k}"] == pytest.approx(golden[direction][f"R{k}"], rel=1e-6)
        assert ours[f"{direction}/MedianR"] == golden[direction]["MR"]
        assert ours[f"{direction}/MeanR"] == pytest.approx(golden[direction]["MeanR"])
    assert ("published_t2v/MedianR" in ours) == (name == "multi")


@pytest.mark.parametrize("seed", range(5))
def test_torchmetrics_agrees_where_nothing_is_tied(seed: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics.functional.retrieval")
    rng = np.random.default_rng(seed)
    owner = np.r_[np.arange(9), rng.integers(0, 9, size=31)]
    scores = rng.permutation(40 * 9).reshape(40, 9).astype(np.float32)
    ours = all_metrics(ranked(scores, owner))
    matrix = torch.from_numpy(scores)
    for direction, queries, right in (
        ("t2v", matrix, torch.from_numpy(owner[:, None] == np.arange(9))),
        ("v2t", matrix.T, torch.from_numpy((owner[:, None] == np.arange(9)).T)),
    ):
        pairs = list(zip(queries, right, strict=True))
        precision = [float(torchmetrics.retrieval_average_precision(s, t)) for s, t in pairs]
        assert ours[f"{direction}/mAP"] == pytest.approx(100 * np.mean(precision), rel=1e-5)
        prefix = "t2v" if direction == "t2v" else "v2t_any"
        for k in (1, 5):
            hits = [float(torchmetrics.retrieval_hit_rate(s, t, top_k=k)) for s, t in pairs]
            assert ours[f"{prefix}/R@{k}"] == pytest.approx(100 * np.mean(hits), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees_where_nothing_is_tied(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    owner = np.r_[np.arange(9), rng.integers(0, 9, size=31)]
    scores = rng.permutation(40 * 9).reshape(40, 9).astype(np.float32)
    right = owner[:, None] == np.arange(9)
    ours = all_metrics(ranked(scores, owner))
    by_label = sklearn.label_ranking_average_precision_score
    assert ours["t2v/mAP"] == pytest.approx(100 * by_label(right, scores))
    assert ours["v2t/mAP"] == pytest.approx(100 * by_label(right.T, scores.T))
    assert ours["t2v/R@5"] == pytest.approx(100 * sklearn.top_k_accuracy_score(owner, scores, k=5))


def test_sums_and_means_of_recalls() -> None:
    rng = np.random.default_rng(0)
    ours = all_metrics(ranked(rng.standard_normal((60, 60)), np.arange(60)))
    t2v, v2t = ([ours[f"{d}/R@{k}"] for k in (1, 5, 10)] for d in ("t2v", "v2t"))
    assert ours["RSum"] == pytest.approx(sum(t2v) + sum(v2t))
    assert ours["t2v/GeoMean"] == pytest.approx(np.prod(t2v) ** (1 / 3))
    assert ours["t2v/R@50"] >= ours["t2v/R@10"]


def test_the_published_median_of_several_captions_is_the_lower_one() -> None:
    """FR-46: ranks 1, 2, 1, 2 have the median 1.5, or 1 as the published code takes it."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.5]])
    owner = np.array([0, 0, 0, 1])
    rankings = ranked(scores, owner)
    np.testing.assert_array_equal(rankings.t2v.expected, [1, 2, 1, 2])
    np.testing.assert_array_equal(rankings.v2t.expected, [1, 2])
    ours = all_metrics(rankings)
    assert ours["t2v/R@1"] == 50.0 and ours["t2v/MeanR"] == 1.5
    assert ours["t2v/MedianR"] == 1.5 and ours["published_t2v/MedianR"] == 1.0
    shuffle = np.array([3, 1, 0, 2])
    assert all_metrics(ranked(scores[shuffle], owner[shuffle])) == pytest.approx(ours)


def test_the_published_median_of_an_odd_number_of_captions_is_the_middle_one() -> None:
    scores = np.array([[3, 2, 1], [3, 2, 1], [2, 3, 1], [1, 2, 3], [1, 2, 3]])
    ours = all_metrics(ranked(scores, np.zeros(5, int)))  # ranks 1, 1, 2, 3, 3
    assert ours["published_t2v/MedianR"] == ours["t2v/MedianR"] == 2.0


def test_three_better_captions_of_one_video_cost_one_rank_among_sets_and_three_among_captions() -> None:
    rankings = ranked(np.array([[0.9, 0.6], [0.2, 0.8], [0.7, 0.7], [0.1, 0.5]]), np.array([0, 0, 0, 1]))
    assert rankings.v2t.expected[1] == 2.0
    assert rankings.v2t_any.expected[1] == 4.0


@pytest.mark.parametrize("size", [4, 7, 9])
def test_a_constant_matrix_is_chance(size: int) -> None:
    """For 9 x 9 the expected rank is 5, but only 5 of 9 orders put the right answer among the first 5. The
    position after sorting, as in open_clip, gives the same R@5 for a constant matrix: 5 of 7 for 7 x 7."""
    ours = all_metrics(ranked(np.ones((size, size), np.float32), np.arange(size)))
    for direction in ("t2v", "v2t", "v2t_any"):
        for k in (1, 5, 10):
            assert ours[f"{direction}/R@{k}"] == pytest.approx(100 * min(1, k / size))
        assert ours[f"{direction}/MeanR"] == ours[f"{direction}/MedianR"] == (size + 1) / 2
    assert ours["t2v/mAP"] <= 100 * np.mean(1 / np.arange(1, size + 1))


def test_five_captions_a_video_and_a_constant_matrix_are_chance() -> None:
    """v2t_any: one of 5 right captions among the first k of 20, drawn without replacement."""
    ours = all_metrics(ranked(np.ones((20, 4), np.float32), np.arange(20) % 4))
    assert ours["v2t_any/R@1"] == pytest.approx(25.0)
    assert ours["v2t_any/R@5"] == pytest.approx(100 * (1 - math.comb(15, 5) / math.comb(20, 5)))
    assert ours["v2t/R@1"] == pytest.approx(25.0) and ours["t2v/R@1"] == pytest.approx(25.0)


def test_every_query_has_exactly_one_rank_with_infinite_scores() -> None:
    scores = np.array([[-np.inf, -np.inf, -np.inf], [1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(ranked(scores, np.array([0, 2])).t2v.expected, [2.0, 1.0])


def test_equal_half_precision_scores_tie() -> None:
    scores = np.array([[0.5, 0.5, 0.1]], dtype=np.float16)
    assert ranked(scores, np.array([0])).t2v.expected[0] == 1.5


@pytest.mark.parametrize("kind", ["int64", "int32", "uint64", ">i8", ">f8", "longdouble", "float64"])
def test_scores_that_differ_do_not_tie_whatever_their_type(kind: str) -> None:
    """2^24 and 2^24 + 1 are equal in float32."""
    scores = np.array([[2**24, 2**24 + 1], [2**24 + 1, 2**24]]).astype(kind)
    np.testing.assert_array_equal(ranked(scores, np.array([1, 1])).t2v.expected, [1.0, 2.0])


@pytest.mark.parametrize("kind", ["int8", "uint16", ">f4", "float16"])
def test_small_types_are_ranked_in_float32(kind: str) -> None:
    tiles = MatrixTiles(np.array([[1, 2]]).astype(kind))
    assert tiles.dtype == torch.float32
    assert rank_tiles(tiles, np.array([1])).t2v.expected[0] == 1.0


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_whole_numbers_that_no_float_holds_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"above 2\^53"):
        ranked(np.array([[2**53, 2**53 + 1]]).astype(kind), np.array([1]))


def test_nan_names_the_query() -> None:
    with pytest.raises(UserError, match="caption 1 is NaN"):
        ranked(np.array([[0.1, 0.2], [np.nan, 0.2]]), np.array([0, 1]))


def test_a_video_without_captions_is_a_candidate_but_no_query() -> None:
    rankings = ranked(np.array([[0.5, 0.9], [0.5, 0.1]]), np.array([0, 0]))
    np.testing.assert_array_equal(rankings.t2v.expected, [2.0, 1.0])
    assert rankings.v2t.expected[0] == 1.0
    assert np.isnan(rankings.v2t.expected[1]) and np.isnan(rankings.v2t_any.expected[1])
    assert all_metrics(rankings)["v2t/R@1"] == 100.0


def test_nothing_to_rank_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to rank"):
        summarise(single_ranks(np.array([np.nan])), direction="t2v")


def test_the_protocol_is_named() -> None:
    assert protocol_of(np.arange(3))["name"] == "one_caption"
    assert protocol_of(np.array([0, 0, 1]))["name"] == "several_captions"
    assert protocol_of(np.arange(3), "paragraph")["queries"] == "all captions of a video joined to one query"


def test_log_lines_name_direction_and_metrics() -> None:
    lines = format_metrics(all_metrics(ranked(np.eye(3), np.arange(3))))
    assert lines[0].startswith("text to video: R@1 100.0") and lines[1].startswith("video to text")


def test_the_line_of_the_log() -> None:
    shown = {"R@1": 2.34, "R@5": 45.67, "R@10": 99, "R@50": 100, "MedianR": 2, "MeanR": 13.28, "mAP": 33.36}
    values = {f"v2t/{name}": value for name, value in shown.items()}
    line = "R@1   2.3  R@5  45.7  R@10  99.0  R@50 100.0  MedianR 2.0  MeanR 13.3  mAP 33.4"
    assert format_metrics(values) == [f"video to text: {line}"]
    both = {**values, **{name.replace("v2t", "t2v"): value for name, value in values.items()}}
    assert format_metrics(both) == [f"text to video: {line}", f"video to text: {line}"]
    assert format_metrics({}) == []


def test_metrics_of_two_queries_in_numbers() -> None:
    """Ranks 1 and 3 of three videos; video 1 has no caption and counts in no direction."""
    ours = all_metrics(ranked(np.array([[0.9, 0.1, 0.2], [0.7, 0.8, 0.5]]), np.array([0, 2])))
    assert [ours[f"t2v/R@{k}"] for k in (1, 5, 10, 50)] == [50.0, 100.0, 100.0, 100.0]
    assert ours["t2v/MedianR"] == ours["t2v/MeanR"] == 2.0 and "published_t2v/MedianR" not in ours
    assert ours["t2v/mAP"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert ours["v2t/mAP"] == 100.0 and ours["v2t/R@1"] == ours["v2t_any/R@1"] == 100.0
    assert ours["t2v/GeoMean"] == pytest.approx((50 * 100 * 100) ** (1 / 3)) and ours["RSum"] == 550.0
