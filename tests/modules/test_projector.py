from __future__ import annotations

import pytest
import torch
from torch import nn

import modules.projector
from modules.projector import Projector, SyncBatchNorm1d
from tests.device import DEVICE


@pytest.mark.parametrize(("layers", "linears"), [(1, 1), (2, 2), (3, 3)])
def test_layers_and_published_names(layers: int, linears: int) -> None:
    projector = Projector(6, hidden_width=10, num_layers=layers).to(DEVICE)
    assert projector(torch.randn(5, 6)).shape == (5, 6)
    assert sum(isinstance(module, nn.Linear) for module in projector.modules()) == linears
    if layers == 2:
        assert {"linear_hidden.1.weight", "linear_hidden.2.running_mean", "linear_out.bias"} <= set(
            projector.state_dict()
        )


def test_in_one_process_it_is_batchnorm() -> None:
    ours, plain = SyncBatchNorm1d(4).to(DEVICE), nn.BatchNorm1d(4).to(DEVICE)
    rows = torch.randn(6, 4)
    assert torch.equal(ours(rows), plain(rows))
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert torch.equal(ours.eval()(rows), plain.eval()(rows))


def test_values_that_are_not_finite_do_not_change_the_running_statistics() -> None:
    """Only those of their channel: the other channels are updated."""
    norm, rows = SyncBatchNorm1d(3).to(DEVICE), torch.randn(6, 3)
    norm(rows)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    bad = rows.clone()
    bad[2, 1] = torch.nan
    norm(bad)
    for name in ("running_mean", "running_var"):
        after = norm.state_dict()[name]
        assert torch.isfinite(after).all() and after[1] == before[name][1]
        assert after[0] != before[name][0]


def test_over_ranks_it_is_batchnorm_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code for several ranks, run with the rows of one: output, gradients and running statistics."""
    monkeypatch.setattr(modules.projector, "world_size", lambda: 2)
    torch.manual_seed(0)
    ours, plain = SyncBatchNorm1d(4).double().to(DEVICE), nn.BatchNorm1d(4).double().to(DEVICE)
    for norm in (ours, plain):
        norm.weight.data = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
        norm.bias.data = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    for _ in range(3):
        rows = 100 + torch.randn(6, 4, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 1.0, 10.0])
        here, there = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        outputs = ours(here), plain(there)
        torch.testing.assert_close(*outputs, rtol=1e-7, atol=1e-9)
        weights = torch.arange(24.0, dtype=torch.float64).view(6, 4)
        for output in outputs:
            (output * weights).sum().backward()
        torch.testing.assert_close(here.grad, there.grad, rtol=1e-6, atol=1e-6)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-10, atol=1e-12, msg=name)
    assert ours.num_batches_tracked is not None and int(ours.num_batches_tracked) == 3


def test_over_ranks_one_row_and_values_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules.projector, "world_size", lambda: 2)
    norm = SyncBatchNorm1d(2).to(DEVICE)
    assert norm(torch.tensor([[3.0, -1.0]])).tolist() == [[0.0, 0.0]], "a row is its own mean"
    assert norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3, -0.1]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.9, 0.9]))
    norm(torch.tensor([[1.0, 5.0], [float("nan"), 7.0]]))
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3, 0.51]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.9, 1.01]))
    assert norm(torch.ones(2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_in_one_process_the_batches_are_counted_and_the_momentum_is_that_of_the_layer() -> None:
    ours, plain = (kind(3, momentum=0.4, eps=0.5).to(DEVICE) for kind in (SyncBatchNorm1d, nn.BatchNorm1d))
    for seed in range(2):
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(ours(rows), plain(rows))
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_hidden_layers_have_the_published_width() -> None:
    shapes = [list(p.shape) for p in Projector(3).parameters()]
    assert shapes == [[4096, 3], [4096], [4096], [4096], [3, 4096], [3]]
