"""BertAdam, its schedule and its groups."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from engine.training.optimizer import (
    BertAdam,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    parameter_part,
    warmup_cosine,
)
from tests.device import DEVICE


def test_schedule_starts_at_zero_rises_drops_a_little_and_ends_at_zero() -> None:
    assert warmup_cosine(0.0, warmup=0.1) == 0.0
    assert warmup_cosine(0.05, warmup=0.1) == pytest.approx(0.5)
    assert warmup_cosine(0.1, warmup=0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)))
    assert warmup_cosine(1.0, warmup=0.1) == pytest.approx(0.0)
    assert warmup_cosine(0.0, warmup=0.0) == 1.0


@pytest.mark.parametrize("fused", [True, False])
def test_three_steps_equal_the_formula_written_out(fused: bool) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    groups = [{"params": [parameter], "weight_decay": 0.1}]
    optimizer = BertAdam(groups, lr=0.5, total_steps=4, warmup=0.25, fused=fused)
    theta, m, v = parameter.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    for step in range(3):
        grad = torch.tensor([0.3 * (step + 1), -0.2], dtype=torch.float64)
        parameter.grad = grad.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * grad, 0.98 * v + 0.02 * grad**2
        theta = theta - 0.5 * warmup_cosine(step / 4, warmup=0.25) * (m / (v.sqrt() + 1e-6) + 0.1 * theta)
        torch.testing.assert_close(parameter.detach(), theta, rtol=1e-12, atol=1e-12)
    assert optimizer.steps_done == 3


def test_the_first_step_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = BertAdam([parameter], lr=1.0, total_steps=10, warmup=0.1)
    parameter.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.ones(3))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_skipped_step_changes_nothing_but_the_position(dtype: torch.dtype, fused: bool) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
    groups = [{"params": [parameter], "weight_decay": 0.1}]
    optimizer = BertAdam(groups, lr=0.5, total_steps=9, warmup=0.0, fused=fused)
    skips = (1.0, 0.0, 1.0, 0.0)
    states = []
    for number, skip in enumerate(skips):
        parameter.grad = torch.tensor([0.1 * number, math.nan if skip else 2.0], dtype=dtype)
        optimizer.step(skip=torch.tensor(skip))
        states.append([parameter.detach().clone(), *(v.clone() for v in optimizer.state[parameter].values())])
    for (before, after), skip in zip(itertools.pairwise(states), skips[1:], strict=True):
        assert all(map(torch.equal, before, after)) == bool(skip)
    assert states[0][0].tolist() == [1.0, -2.0] and not states[0][1].any()
    assert optimizer.steps_done == 4
    assert sorted(optimizer.state[parameter]) == ["exp_avg", "exp_avg_sq"], "as saved states have them"


@pytest.mark.parametrize("fused", [None, True, False])
def test_the_fused_kernel_is_used_where_it_is_asked_for_and_on_gpus(
    fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bool] = []
    monkeypatch.setattr("engine.training.optimizer.adamw", lambda *_, **__: used.append(True))
    weight = nn.Parameter(torch.ones(2, device=DEVICE))
    weight.grad = torch.ones_like(weight)
    BertAdam([weight], lr=0.1, total_steps=9, warmup=0.3, fused=fused).step()
    assert bool(used) == (DEVICE.type == "cuda" if fused is None else fused)


def test_the_fused_kernel_differs_by_rounding() -> None:
    torch.manual_seed(0)
    weights, gradients = torch.randn(3, 101), torch.randn(5, 3, 101)
    ends = []
    for fused in (True, False):
        parameter = nn.Parameter(weights.clone())
        groups = [{"params": [parameter], "weight_decay": 0.2}]
        optimizer = BertAdam(groups, lr=0.1, total_steps=9, warmup=0.3, fused=fused)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        ends.append([parameter.detach(), *optimizer.state[parameter].values()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


class _Named(nn.Module):
    """Parameters under the published names, and one momentum copy that does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_encoder = nn.ModuleDict(
            {"visual": nn.Linear(2, 2), "temporal_transformer": nn.LayerNorm(2)}
        )
        self.text_encoder = nn.ModuleDict({"ln_final": nn.LayerNorm(2), "LayerNorm": nn.LayerNorm(2)})
        self.visual_encoder_k = nn.Linear(2, 2).requires_grad_(False)


def test_groups_by_part_and_decay() -> None:
    model = _Named()
    groups = parameter_groups(model, lr=1.0, text_lr=2.0, coef_lr=0.1, weight_decay=0.2)
    by_name = {group["name"]: group for group in groups}
    assert by_name["image tower"]["lr"] == pytest.approx(0.1)
    assert by_name["text encoder"]["lr"] == 2.0 and by_name["rest"]["lr"] == 1.0
    assert by_name["image tower"]["weight_decay"] == 0.2
    assert by_name["image tower, no decay"]["weight_decay"] == 0.0
    # CLIP's ln_* weights decay, BERT's LayerNorm weights do not; no bias does.
    assert by_name["text encoder"]["params"] == [model.text_encoder["ln_final"].weight]
    assert len(by_name["text encoder, no decay"]["params"]) == 3
    trained = [id(p) for group in groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_part_of_each_name() -> None:
    assert parameter_part("visual_encoder.visual.proj") == "image tower"
    assert parameter_part("visual_encoder.frame_position_embeddings.weight") == "rest"
    assert parameter_part("text_encoder.text_proj.weight") == "text encoder"
    assert parameter_part("cls.bias") == "rest"
    assert parameter_part("head.text_fc.0.weight") == "rest"


def test_state_survives_a_round_trip() -> None:
    torch.manual_seed(0)
    models = [nn.Linear(3, 3).to(DEVICE) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    options = {
        "lr": 0.1,
        "text_lr": 0.1,
        "coef_lr": 1.0,
        "weight_decay": 0.2,
        "warmup": 0.1,
        "total_steps": 9,
    }
    first, second = (build_optimizer(m, **options) for m in models)
    for step in range(4):
        if step == 2:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            models[1].load_state_dict(models[0].state_dict())
        for model, optimizer in zip(models, (first, second), strict=True):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            if step >= 2 or model is models[0]:
                optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=0, atol=0)


def build(model: nn.Module, **changed: float) -> BertAdam:
    settings: dict[str, Any] = {"lr": 1.0, "text_lr": 2.0, "coef_lr": 0.1, "weight_decay": 0.2}
    return build_optimizer(model, **{**settings, "warmup": 0.25, "total_steps": 8, **changed})


def test_every_group_has_its_rate_of_the_next_step() -> None:
    optimizer = build(_Named())
    groups = [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
    decaying = [("image tower", 0.2), ("text encoder", 0.2), ("rest", 0.2)]
    assert groups == decaying + [(f"{name}, no decay", 0.0) for name, _ in decaying]
    assert optimizer.steps_done == 0 and optimizer.current_lrs() == [0.0] * 6
    optimizer.step()
    assert optimizer.steps_done == 1
    assert optimizer.current_lrs() == pytest.approx([0.05, 1.0, 0.5] * 2), "step 1 of 2 of the warm-up"
    for group in optimizer.param_groups:
        group["step"] = 8
    assert optimizer.current_lrs() == pytest.approx([0.0] * 6, abs=1e-12)


def test_parts_without_parameters_have_no_group() -> None:
    groups = parameter_groups(nn.Linear(2, 2), lr=1.0, text_lr=2.0, coef_lr=0.1, weight_decay=0.2)
    assert [group["name"] for group in groups] == ["rest", "rest, no decay"]
    assert [group["lr"] for group in groups] == [1.0, 1.0]


def test_a_parameter_without_a_gradient_is_left_alone_also_by_weight_decay() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = BertAdam(
        [{"params": [used, unused], "weight_decay": 0.5}, {"params": [nn.Parameter(torch.ones(1))]}],
        lr=0.1,
        total_steps=4,
        warmup=0.0,
    )
    used.grad = torch.zeros(2)
    optimizer.step()
    assert used.tolist() == pytest.approx([0.95] * 2) and unused.tolist() == [1.0, 1.0]
    assert unused not in optimizer.state and used in optimizer.state
    assert optimizer.param_groups[1]["weight_decay"] == 0.0 and optimizer.param_groups[1]["step"] == 1


def test_a_schedule_needs_a_step_and_a_step_takes_no_closure() -> None:
    with pytest.raises(AssertionError):
        BertAdam([nn.Parameter(torch.ones(1))], lr=0.1, total_steps=0, warmup=0.0)
    optimizer = BertAdam([nn.Parameter(torch.ones(1))], lr=0.1, total_steps=1, warmup=0.0)
    with pytest.raises(AssertionError):
        optimizer.step(lambda: 0.0)


def test_the_saved_state_holds_the_moments_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)).to(DEVICE)
    model[1].bias.requires_grad_(False)
    optimizer = build(model)
    assert optimizer_state(model, optimizer) == {"exp_avg": {}, "exp_avg_sq": {}, "step": 0}
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    optimizer.step()
    state = optimizer_state(model, optimizer)
    assert state["step"] == 1 and list(state) == ["exp_avg", "exp_avg_sq", "step"]
    gradient = model[0].weight.grad
    assert gradient is not None
    for moment, factor, power in (("exp_avg", 0.1, 1), ("exp_avg_sq", 0.02, 2)):
        assert sorted(state[moment]) == ["0.bias", "0.weight", "1.weight"]
        torch.testing.assert_close(state[moment]["0.weight"], factor * gradient.cpu() ** power)
    again = copy.deepcopy(model)
    other = build(again)
    load_optimizer_state(again, other, state)
    assert {group["step"] for group in other.param_groups} == {1}
    moments = other.state[again[0].weight]
    assert sorted(moments) == ["exp_avg", "exp_avg_sq"]
    for name, value in moments.items():
        assert torch.equal(value.cpu(), state[name]["0.weight"])
        assert value.data_ptr() != state[name]["0.weight"].data_ptr()
    assert again[1].bias not in other.state
