"""Ranks, accumulation, the gradient cache and sharding do not change the numbers (float64, gloo)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.equality import SETTINGS, Setting, difference, train_alone, train_on_ranks

CASES = ("finetune all", "pretrain all")  # each loss by itself: tests/modules/test_over_ranks.py
STEPS, TOLERANCE = 3, 1e-9
Results = dict[tuple[str, Setting], dict[str, Tensor]]


@pytest.fixture(scope="module")
def results() -> Results:
    torch.set_num_threads(1)
    found: Results = train_alone(cases=CASES, steps=STEPS, dtype=torch.float64)
    for ranks in (2, 4):
        found |= train_on_ranks(ranks, cases=CASES, steps=STEPS, dtype=torch.float64)[0]
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s != s.reference], ids=repr)
def test_same_numbers_as_one_process(setting: Setting, case: str, results: Results) -> None:
    expected, ours = results[case, setting.reference], results[case, setting]
    assert sum(name.startswith("step") for name in expected) > 2 * STEPS  # every loss of every step
    for kind in ("step", "exp_avg", "state"):
        assert any(name.startswith(kind) for name in expected)
        assert difference(ours, expected, kind) < TOLERANCE


def test_one_process_moves_away_from_where_it_began(results: Results) -> None:
    """The comparison would be empty if nothing moved."""
    once = train_alone(cases=CASES[1:], steps=1, dtype=torch.float64)
    for setting in (Setting(), Setting(accumulation=2)):
        three = results["pretrain all", setting]
        assert (
            difference(
                once["pretrain all", setting], {k: three[k] for k in once["pretrain all", setting]}, "state"
            )
            > 1e-3
        )


def test_ranks_stay_bit_equal_over_fifty_steps() -> None:
    """Queues, pointer, momentum weights, statistics, and with them weights and optimiser state."""
    first, second = train_on_ranks(
        2, cases=("pretrain all",), settings=(Setting(2),), steps=50, dtype=torch.float32
    )
    one, other = (rank["pretrain all", Setting(2)] for rank in (first, second))
    assert set(one) == set(other) and "state queue_frame_cross_ng" in one
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert int(one["state queue_ptr"]) == 50 * 8 % 6
