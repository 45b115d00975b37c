"""The paired test: exact p-values by hand, calibration under no difference, coverage of its interval."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from common.errors import UserError
from engine.evaluation.paired_test import PairedTest, paired_test
from engine.evaluation.ranks import single_ranks


def compared(a: np.ndarray, b: np.ndarray, **options: object) -> PairedTest:
    return paired_test(single_ranks(a), single_ranks(b), **options)  # type: ignore[arg-type]


def random_ranks(random: np.random.Generator, videos: int, captions: int) -> np.ndarray:
    """Captions of a video have similar ranks."""
    made = np.repeat(random.geometric(0.3, videos), captions) + random.integers(0, 2, videos * captions)
    return made.astype(float)


def test_p_is_that_of_all_sign_vectors() -> None:
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(8), 3)
    a, b = (random_ranks(random, 8, 3) for _ in range(2))
    found = compared(a, b, clusters=clusters)
    assert found.exact and found.clusters == 8
    gains = np.bincount(clusters, weights=b - a)
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    expected = np.mean(np.abs(signs @ gains) >= abs(gains.sum()) - 1e-9)
    assert found.differences["MeanR"].p == pytest.approx(expected)


def test_ten_videos_that_all_gain_are_no_proof_beyond_their_number() -> None:
    """7 of 10 videos gain the first rank and none loses it: 2 of 2^7 sign vectors are as large, p = 0.016."""
    a, b = np.full(10, 2.0), np.where(np.arange(10) < 7, 1.0, 2.0)
    found = compared(a, b).differences["R@1"]
    assert found.value == pytest.approx(70.0) and found.p == pytest.approx(2 / 2**7)
    assert found.low > 0


def test_five_videos_can_show_nothing_at_5_percent() -> None:
    found = compared(np.full(5, 9.0), np.ones(5)).differences["MeanR"]
    assert found.p == 2 / 2**5 and found.low == -np.inf and found.high == np.inf


def test_random_vectors_agree_with_all_vectors() -> None:
    random = np.random.default_rng(3)
    a, b = (random_ranks(random, 12, 2) for _ in range(2))
    clusters = np.repeat(np.arange(12), 2)
    exact = compared(a, b, clusters=clusters, samples=2**11)
    drawn = compared(a, b, clusters=clusters, samples=2**11 - 1)
    assert exact.exact and not drawn.exact
    for name, difference in exact.differences.items():
        assert drawn.differences[name].p == pytest.approx(difference.p, abs=0.04), name


def test_p_is_small_for_a_clear_difference_and_one_for_none() -> None:
    a = np.random.default_rng(1).integers(1, 30, size=400).astype(float)
    better = compared(a, np.maximum(1, a - 5), samples=2000).differences
    assert better["R@5"].value > 0 and better["R@5"].low > 0 and better["R@5"].p < 0.01
    assert better["MeanR"].value < 0 and better["MeanR"].high < 0
    none = compared(a, a, samples=500).differences["R@1"]
    assert none.value == none.low == none.high == 0.0 and none.p == 1.0


@pytest.mark.parametrize(("videos", "trials"), [(5, 300), (10, 300), (20, 300), (120, 200)])
def test_p_values_are_calibrated_under_no_difference(videos: int, trials: int) -> None:
    """Two equally good models: p <= 0.05 in at most 5% of the trials, whatever the number of videos. Without
    clusters it would come far more often. p <= 0.05 exactly if the interval excludes 0."""
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(videos), 5)
    small, naive = [], []
    for trial in range(trials):
        a, b = (random_ranks(random, videos, 5) for _ in range(2))
        differences = compared(a, b, clusters=clusters, samples=500, seed=trial).differences
        for difference in differences.values():
            assert (difference.p <= 0.05) == (not difference.low <= 0 <= difference.high)
        small.append(differences["MeanR"].p <= 0.05)
        naive.append(compared(a, b, samples=500, seed=trial).differences["MeanR"].p <= 0.05)
    assert np.mean(small) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / trials)
    assert videos < 20 or np.mean(small) > 0.01
    assert np.mean(naive) > 0.12


@pytest.mark.parametrize("videos", [10, 40])
def test_the_interval_holds_the_true_difference(videos: int) -> None:
    """Ranks of B are those of A plus a symmetric change around 3: 95% of the intervals hold 3."""
    random = np.random.default_rng(5)
    trials, held = 200, 0
    for trial in range(trials):
        a = random.integers(50, 90, size=videos).astype(float)
        b = a + 3 + random.normal(size=videos) * random.integers(1, 9, size=videos)
        found = compared(a, b, samples=600, seed=trial).differences["MeanR"]
        held += found.low <= 3 <= found.high
    assert held / trials >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / trials)
    assert held < trials


def test_queries_without_a_rank_are_left_out_and_lengths_must_agree() -> None:
    a, b = np.array([1.0, np.nan, 2.0]), np.array([1.0, 4.0, 2.0])
    assert compared(a, b, samples=50).differences["MeanR"].value == 0.0
    with pytest.raises(UserError, match="3 queries in A, 2 in B"):
        compared(a, b[:2])
    with pytest.raises(UserError, match="no query"):
        compared(a[1:2], b[1:2])
