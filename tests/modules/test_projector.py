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


def test_one_process_is_plain_batchnorm() -> None:
    ours, plain = SyncBatchNorm1d(4), nn.BatchNorm1d(4)
    rows = torch.randn(6, 4)
    assert torch.equal(ours(rows), plain(rows))
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert torch.equal(ours.eval()(rows), plain.eval()(rows))


def test_a_batch_that_is_not_finite_leaves_the_running_statistics() -> None:
    """Channel by channel: a bad value in one of them does not spoil what the others learn."""
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
