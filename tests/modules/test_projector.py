from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.projector import Projector, SyncBatchNorm1d


@pytest.mark.parametrize(("layers", "linears"), [(1, 1), (2, 2), (3, 3)])
def test_layers_and_published_names(layers: int, linears: int) -> None:
    projector = Projector(6, hidden_width=10, num_layers=layers)
    assert projector(torch.randn(5, 6)).shape == (5, 6)
    assert sum(isinstance(module, nn.Linear) for module in projector.modules()) == linears
    if layers == 2:
        assert {"linear_hidden.1.weight", "linear_hidden.2.running_mean", "linear_out.bias"} <= set(
            projector.state_dict()
        )


def test_in_one_process_it_is_batchnorm() -> None:
    ours, plain = SyncBatchNorm1d(4), nn.BatchNorm1d(4)
    rows = torch.randn(6, 4)
    assert torch.equal(ours(rows), plain(rows))
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert torch.equal(ours.eval()(rows), plain.eval()(rows))


def test_values_that_are_not_finite_do_not_change_the_running_statistics() -> None:
    """Only those of their channel: the other channels are updated."""
    norm, rows = SyncBatchNorm1d(3), torch.randn(6, 3)
    norm(rows)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    bad = rows.clone()
    bad[2, 1] = torch.nan
    norm(bad)
    for name in ("running_mean", "running_var"):
        after = norm.state_dict()[name]
        assert torch.isfinite(after).all() and after[1] == before[name][1]
        assert after[0] != before[name][0]
