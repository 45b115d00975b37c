"""Gathering and sums with a second rank that is played: its rows and numbers are known.

`test_over_ranks.py` compares real ranks with one process.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules import gather as module
from modules.gather import (
    gather,
    gather_with_grad,
    mean_over_ranks,
    rank,
    sum_over_ranks,
    sum_over_ranks_with_grad,
    world_size,
)


class TwoRanks:
    """The process group of rank 1. Rank 0 sends `other` to be gathered, and adds 10 to every sum."""

    other: Tensor

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return 1

    def all_gather(self, parts: list[Tensor], sent: Tensor) -> None:
        assert len(parts) == 2 and sent.dtype != torch.bool
        assert sent.is_contiguous() and all(part.is_contiguous() for part in parts)
        assert not sent.requires_grad
        parts[0].copy_(self.other)
        parts[1].copy_(sent)

    def all_reduce(self, total: Tensor) -> None:
        assert total.is_contiguous() and not total.requires_grad
        total.add_(10)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> TwoRanks:
    group: Any = TwoRanks()
    monkeypatch.setattr(module, "dist", group)
    return group


def test_without_a_process_group_there_is_one_rank() -> None:
    assert (world_size(), rank()) == (1, 0)
    rows = torch.ones(2, 3, requires_grad=True)
    for function in (gather, sum_over_ranks):
        assert torch.equal(function(rows), rows) and not function(rows).requires_grad
    for function in (gather_with_grad, sum_over_ranks_with_grad):
        assert function(rows) is rows


@pytest.mark.parametrize("lacking", ["is_available", "is_initialized"])
def test_a_torch_without_distributed_and_a_group_not_made_yet(
    lacking: str, group: TwoRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, lacking, lambda: False)
    assert (world_size(), rank()) == (1, 0)


def test_rows_come_in_the_order_of_ranks(group: TwoRanks) -> None:
    assert (world_size(), rank()) == (2, 1)
    group.other = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    columns = torch.tensor([[1.0, 3.0], [2.0, 4.0]], requires_grad=True)
    gathered = gather(columns.T)  # not contiguous
    assert gathered.tolist() == [[5, 6], [7, 8], [1, 2], [3, 4]] and not gathered.requires_grad
    group.other = torch.tensor([1, 0])
    booleans = gather(torch.tensor([False, True]))
    assert booleans.dtype == torch.bool and booleans.tolist() == [True, False, False, True]
    assert gather(torch.tensor([3, 4])).dtype == torch.int64


def test_each_rank_gets_the_gradient_of_its_rows_summed_over_ranks(group: TwoRanks) -> None:
    group.other = torch.zeros(2, 1)
    rows = torch.tensor([[1.0], [2.0]], requires_grad=True)
    gathered = gather_with_grad(rows)
    assert gathered.tolist() == [[0], [0], [1], [2]]
    (gathered * torch.tensor([[1.0], [2.0], [3.0], [4.0]])).sum().backward()
    assert rows.grad is not None and rows.grad.tolist() == [[13.0], [14.0]]
    rows.grad = None
    gather_with_grad(rows).sum().backward()  # an expanded number, not contiguous
    assert rows.grad.tolist() == [[11.0], [11.0]]


def test_sums_over_ranks_leave_their_argument(group: TwoRanks) -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    total = sum_over_ranks(values)
    assert total.tolist() == [11, 12] and values.tolist() == [1, 2] and not total.requires_grad
    total = sum_over_ranks_with_grad(values)
    assert total.tolist() == [11, 12]
    total.sum().backward()  # an expanded number, not contiguous
    assert values.grad is not None and values.grad.tolist() == [11, 11]


def test_a_rank_has_its_share_of_the_mean(group: TwoRanks) -> None:
    """Two values here and ten on rank 0: the average of both shares is the mean of all twelve."""
    values = torch.tensor([6.0, 9.0, 100.0], requires_grad=True)
    share = mean_over_ranks(values, torch.tensor([True, True, False]))
    assert float(share.detach()) == pytest.approx(2 * (6 + 9) / 12)
    share.backward()
    assert values.grad is not None and values.grad.tolist() == pytest.approx([2 / 12, 2 / 12, 0])
    assert float(mean_over_ranks(values.detach())) == pytest.approx(115 / 3)


def test_a_mean_over_nothing_is_zero() -> None:
    values = torch.ones(3, requires_grad=True)
    share = mean_over_ranks(values, torch.zeros(3, dtype=torch.bool))
    share.backward()
    assert float(share.detach()) == 0.0
    assert values.grad is not None and values.grad.tolist() == [0.0] * 3
    single = mean_over_ranks(torch.tensor([4.0, 8.0]), torch.tensor([True, False]))
    assert float(single) == 4.0
