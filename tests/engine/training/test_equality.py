"""Ranks, accumulation, the gradient cache and sharding do not change the numbers (gloo)."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.equality import (
    KINDS,
    SETTINGS,
    Results,
    Setting,
    difference,
    train,
    train_alone,
    train_on_ranks,
    zero_gradients,
)
from engine.distributed.world import World
from tests.device import DEVICE
from tests.processes import run_ranks

CASES = ("finetune all", "pretrain all")  # each loss by itself: tests/modules/test_over_ranks.py
STEPS, TOLERANCE = 2, 1e-9
STEPS_32, TOLERANCE_32 = 2, 1e-5  # in later steps the weights themselves differ by rounding
TWO_RANKS = (Setting(2), Setting(2, accumulation=2, cache=1), Setting(2, True, cache=1))
OTHERS = [s for s in SETTINGS if s != s.reference]


@pytest.fixture(scope="module")
def results() -> Results:
    torch.set_num_threads(1)
    results: Results = train_alone(cases=CASES, steps=STEPS, dtype=torch.float64)
    for ranks in (2, 4):
        results |= train_on_ranks(ranks, cases=CASES, steps=STEPS, dtype=torch.float64, start=run_ranks)[0]
    return results


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("setting", OTHERS, ids=repr)
def test_same_numbers_as_one_process(setting: Setting, case: str, results: Results) -> None:
    expected, ours = results[case, setting.reference], results[case, setting]
    assert sum(name.startswith("step") for name in expected) > 2 * STEPS  # every loss of every step
    assert sum(name.startswith("gradient") for name in expected) > 20 * STEPS
    for kinds in KINDS.values():
        assert difference(ours, expected, *kinds) < TOLERANCE, kinds


def test_biases_of_keys_and_those_before_batch_norm_have_no_gradient(results: Results) -> None:
    """So their float32 gradients are rounding errors, and comparisons leave them out."""
    keys = {name for name in results["pretrain all", Setting()] if name.endswith("in_proj_bias.keys")}
    of_keys = {name.split()[-1] for name in keys if name.startswith("gradient")}
    assert len(of_keys) == 3  # a layer of each: image tower, temporal transformer, text tower
    assert zero_gradients(results["finetune all", Setting()]) == of_keys
    assert zero_gradients(results["pretrain all", Setting()]) == of_keys | {
        "v_projector.linear_hidden.1.bias",
        "v_predictor.linear_hidden.1.bias",
        "v_projector.linear_out.bias",
    }


@pytest.fixture(scope="module")
def results_32() -> Results:
    torch.set_num_threads(1)
    alone: Results = train_alone(cases=CASES, steps=STEPS_32, dtype=torch.float32)
    two = train_on_ranks(
        2, cases=CASES, settings=TWO_RANKS, steps=STEPS_32, dtype=torch.float32, start=run_ranks
    )
    return alone | two[0]


@pytest.fixture(scope="module")
def exact() -> Results:
    return train_alone(cases=CASES, steps=STEPS_32, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "setting", [*TWO_RANKS, Setting(cache=1), Setting(accumulation=2, cache=1)], ids=repr
)
def test_same_numbers_in_float32(setting: Setting, case: str, results_32: Results, exact: Results) -> None:
    expected, ours = results_32[case, setting.reference], results_32[case, setting]
    zero = zero_gradients(exact[case, setting.reference])
    for kind, kinds in KINDS.items():
        if kind != "weights":
            assert difference(ours, expected, *kinds, zero=zero) < TOLERANCE_32, kind
    # Adam makes large steps of small gradients. So the weights may differ by about as much as those of one
    # process in float32 and float64.
    rounding = difference(expected, exact[case, setting.reference], *KINDS["weights"], zero=zero)
    assert difference(ours, expected, *KINDS["weights"], zero=zero) < 3 * rounding


def test_a_loss_whose_ranks_score_their_own_texts_only_and_adapters_and_a_head_with_weights() -> None:
    """The first with its learned scale and bias; in float64."""
    torch.set_num_threads(1)
    cases = ("finetune sigmoid", "finetune adapters", "finetune wti")
    found = train_on_ranks(
        2, cases=cases, settings=TWO_RANKS, steps=STEPS, dtype=torch.float64, start=run_ranks
    )[0]
    learned = ("step 1 logit_bias", "gradient 1 logits.log_scale", "weight logits.bias")
    adapter = "text_encoder.transformer.resblocks.0.mlp.c_fc.lora_B.default.weight"
    head = "head.text_fc.0.weight"
    wanted = (learned, *((f"gradient 1 {name}", f"weight {name}") for name in (adapter, head)))
    names = dict(zip(cases, wanted, strict=True))
    for case, setting in itertools.product(cases, TWO_RANKS):
        expected = train(case, setting.reference, World(0, 1, DEVICE), steps=STEPS, dtype=torch.float64)
        assert set(names[case]) <= set(expected)
        for kinds in KINDS.values():
            assert difference(found[case, setting], expected, *kinds) < TOLERANCE, (case, setting, kinds)


def test_training_changes_the_weights(results: Results) -> None:
    """Otherwise the comparisons would show nothing."""
    once = train_alone(cases=CASES[1:], steps=1, dtype=torch.float64)
    for setting in (Setting(), Setting(accumulation=2)):
        two = results["pretrain all", setting]
        assert (
            difference(
                once["pretrain all", setting], {k: two[k] for k in once["pretrain all", setting]}, "weight"
            )
            > 1e-3
        )


def test_ranks_stay_bit_equal_over_fifty_steps() -> None:
    """Queues, pointer, momentum weights, statistics, and with them weights and optimiser state."""
    first, second = train_on_ranks(
        2, cases=("pretrain all",), settings=(Setting(2),), steps=50, dtype=torch.float32, start=run_ranks
    )
    one, other = (rank["pretrain all", Setting(2)] for rank in (first, second))
    assert set(one) == set(other) and "queue queue_frame_cross_ng" in one
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert int(one["queue queue_ptr"]) == 50 * 8 % 6
