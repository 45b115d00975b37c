"""The loss scale equals that of torch's GradScaler, except after steps for which it is not the cause."""

from __future__ import annotations

import pytest
import torch

from engine.training import loss_scale
from engine.training.loss_scale import LossScale
from tests.device import DEVICE

NO, YES = (torch.tensor(value, device=DEVICE) for value in (False, True))


def test_defaults_and_state_are_those_of_torch() -> None:
    assert LossScale(DEVICE, enabled=True).state_dict() == torch.amp.GradScaler(DEVICE.type).state_dict()
    assert LossScale(DEVICE, enabled=False).state_dict() == {}


@pytest.mark.parametrize("initial", [2.0**16, 2.0**127])
def test_the_same_scale_as_torch_after_every_step(initial: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    ours = LossScale(DEVICE, enabled=True, initial=initial)
    theirs = torch.amp.GradScaler(DEVICE.type, init_scale=initial, growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scales = set()
    for overflow in (0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0):
        theirs.scale(weight.sum())
        weight.grad = torch.tensor([float("inf") if overflow else 1.0])
        theirs.step(optimizer)
        theirs.update()
        ours.update(overflow=YES if overflow else NO, bad=NO)
        assert ours.state_dict() == theirs.state_dict()
        scales.add(ours.get_scale())
    assert len(scales) >= 3


def test_a_step_that_is_bad_for_another_reason_leaves_the_scale() -> None:
    ours = LossScale(DEVICE, enabled=True, initial=8.0)
    ours.update(overflow=NO, bad=NO)
    before = ours.state_dict()
    ours.update(overflow=YES, bad=YES)
    ours.update(overflow=NO, bad=YES)
    assert ours.state_dict() == before and before["_growth_tracker"] == 1


def test_losses_and_gradients() -> None:
    ours, off = LossScale(DEVICE, enabled=True, initial=8.0), LossScale(DEVICE, enabled=False)
    loss, gradient = torch.tensor(2.0), torch.tensor([8.0, 24.0])
    assert float(ours.scale(loss)) == 16.0 and off.scale(loss) is loss
    off.unscale_([gradient])
    assert gradient.tolist() == [8.0, 24.0]
    ours.unscale_([gradient])
    assert gradient.tolist() == [1.0, 3.0]
    ours.unscale_([])  # everything is frozen
    assert bool(ours.may_overflow()) and not bool(off.may_overflow())
    assert not bool(LossScale(DEVICE, enabled=True, initial=1.0).may_overflow())


def test_a_saved_scale_continues() -> None:
    ours = LossScale(DEVICE, enabled=True)
    state = {**ours.state_dict(), "scale": 4.0, "_growth_tracker": 1999}
    ours.load_state_dict(state)
    assert ours.state_dict() == state
    ours.update(overflow=NO, bad=NO)
    assert (ours.get_scale(), ours.state_dict()["_growth_tracker"]) == (8.0, 0)
    off = LossScale(DEVICE, enabled=False)
    off.load_state_dict({})
    assert off.get_scale() == 1.0
