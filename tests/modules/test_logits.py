from __future__ import annotations

import math

import pytest
import torch

from engine.training.optimizer import build_optimizer, parameter_groups
from modules.logits import Logits, logits_for
from modules.losses.table import make_loss
from tests.modules import tiny

COSINES = torch.tensor([[0.5, -0.25]])


def test_a_constant_factor_is_a_number_and_has_no_state() -> None:
    logits = Logits(100.0)
    assert logits.scale == 100.0 and not logits.state_dict() and not logits.learned()
    assert logits(COSINES).tolist() == [[50.0, -25.0]]


def test_scale_and_bias_start_where_the_loss_or_the_backbone_says() -> None:
    softmax, sigmoid = make_loss("softmax"), make_loss("sigmoid")
    assert logits_for(softmax, scale=117.3).scale == 100.0  # as published
    assert logits_for(softmax, scale=50.0).scale == 50.0
    paper = logits_for(sigmoid, scale=100.0).learned()  # CLIP has no bias
    assert {n: float(v) for n, v in paper.items()} == pytest.approx(
        {"logit_scale": 10.0, "logit_bias": -10.0}
    )
    own = logits_for(sigmoid, scale=117.3, bias=-12.9)
    own.limit()
    assert {n: float(v) for n, v in own.learned().items()} == pytest.approx(
        {"logit_scale": 117.3, "logit_bias": -12.9}
    )


def test_a_learned_factor_is_at_most_100_and_comes_back() -> None:
    logits = logits_for(make_loss("softmax"), scale=200.0, learn=True)
    assert logits.log_scale is not None
    assert float(logits.learned()["logit_scale"]) == pytest.approx(100.0)
    for change, expected in ((+1.0, math.log(100.0)), (-1.0, math.log(100.0) - 1.0)):
        with torch.no_grad():
            logits.log_scale.add_(change)
        logits.limit()
        assert float(logits.log_scale.detach()) == pytest.approx(expected)
    logits(COSINES).sum().backward()  # a factor at its limit still has a gradient
    assert logits.log_scale.grad is not None and float(logits.log_scale.grad) != 0.0


def test_they_learn_without_weight_decay_and_are_logged() -> None:
    loss = make_loss("sigmoid")
    model = tiny.retrieval_model(loss=loss, logits=logits_for(loss, scale=5.0))
    rates = {"lr": 1e-2, "text_lr": 1e-3, "coef_lr": 1.0}
    of_logits = set(model.logits.parameters())
    (group,) = [
        group
        for group in parameter_groups(model, **rates, weight_decay=0.2)
        if of_logits & {*group["params"]}
    ]
    assert of_logits <= {*group["params"]} and group["weight_decay"] == 0.0 and group["lr"] == 1e-2
    optimizer = build_optimizer(model, **rates, weight_decay=0.2, warmup=0.0, total_steps=10)
    losses = model(tiny.batch())
    assert set(losses) == {"loss", "VTM", "FTM", "logit_scale", "logit_bias"} and model.log_scalars() == {}
    losses["loss"].backward()
    optimizer.step()
    after = model.logits.learned()
    assert after["logit_scale"] != losses["logit_scale"] and after["logit_bias"] != losses["logit_bias"]
    assert {"logits.log_scale", "logits.bias"} <= set(model.state_dict())
    assert not {name for name in tiny.retrieval_model().state_dict() if name.startswith("logits")}
