"""The option --device: which tests run there, and where the tensors of tests are made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UserError
from tests import device


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests on "meta", a device that every torch has; its tensors hold no numbers."""
    monkeypatch.setattr(device, "DEVICE", torch.device("meta"))


def test_tensors_of_a_test_are_made_on_the_device_and_those_of_tested_code_where_it_asks(meta: None) -> None:
    with device.TensorsOfTests():
        made = (
            torch.tensor([1.0]),
            torch.randn(2, generator=torch.Generator()),
            torch.ones(2, dtype=torch.int64),
        )
        here = torch.zeros(2, device="cpu")
        layer = nn.Linear(2, 2)  # torch makes its weights, not this file
    assert {tensor.device.type for tensor in made} == {"meta"}
    assert made[2].dtype == torch.int64
    assert here.device.type == layer.weight.device.type == "cpu"


def test_a_tensor_with_gradient_is_a_leaf(meta: None) -> None:
    with device.TensorsOfTests():
        tensor = torch.ones(2, requires_grad=True)
    assert tensor.is_leaf and tensor.requires_grad and tensor.device.type == "meta"


def test_blocks_without_the_mode(meta: None) -> None:
    with device.TensorsOfTests(), device.untouched_tensors():
        assert torch.zeros(2).device.type == "cpu"


def test_tests_of_programs_are_left_out(meta: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = (
        "tests/modules/losses/test_x.py::test",
        "tests/e2e/test_y.py::test",
        "tests/engine/distributed/test_device.py::test",
        "tests/engine/logs/test_z.py::t",
    )
    items: Any = [SimpleNamespace(nodeid=name) for name in ids]
    assert device.split_by_device(items) == (items[:1], items[1:])
    monkeypatch.setattr(device, "DEVICE", torch.device("cpu"))
    assert device.split_by_device(items) == (items, [])


def test_ranks_are_skipped_with_a_reason(meta: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match="needs two devices"):
        device.skip_if_ranks_lack_devices()
    monkeypatch.setattr(device, "DEVICE", torch.device("cpu"))
    device.skip_if_ranks_lack_devices()


@pytest.mark.parametrize("name", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_here_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DEVICE", torch.device("cpu"))
    monkeypatch.delenv(device.VARIABLE, raising=False)
    with pytest.raises(UserError, match=f"--device {name}: is not here") as error:
        device.choose_device(name)
    assert "\n" not in str(error.value)
