"""Gather and sum tensors over the ranks, with and without gradient. Without a process group: one rank.

Shapes: B rows on this rank, R ranks; a gathered tensor has R * B rows, those of rank 0 first. Every rank must
have the same number of rows.

Gradients: a loss of gathered rows has the same value on every rank. The backward pass of `gather_with_grad`
sums over the ranks, then DistributedDataParallel averages over them, and the two factors cancel: parameters
get the gradient that one process with all the rows would give them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks in the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process in the default process group; 0 without one."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks [R * B, ...], without gradient."""
    if world_size() == 1:
        return rows.detach()
    # Not every backend can send booleans.
    sent = rows.detach().to(torch.uint8) if rows.dtype == torch.bool else rows.detach()
    parts = [torch.empty_like(sent, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, sent.contiguous())
    return torch.cat(parts).to(rows.dtype)


def gather_with_grad(rows: Tensor) -> Tensor:
    """The rows of all ranks [R * B, ...]. Each rank's rows get the sum of the gradients of all ranks."""
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise sum over the ranks, without gradient."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def sum_over_ranks_with_grad(values: Tensor) -> Tensor:
    """Elementwise sum over the ranks. The gradient is summed over the ranks too."""
    if world_size() == 1:
        return values
    total: Tensor = _SumOverRanks.apply(values)
    return total


def mean_over_ranks(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """This rank's share of the mean over all values of all ranks where `mask` is True; a scalar.

    The average of the shares over the ranks (DistributedDataParallel averages gradients) is that mean, also
    where ranks have different numbers of such values. 0 with zero gradient where no rank has any. Without a
    mask every rank must have the same number of values.
    """
    if mask is None:
        return values.mean()
    count = sum_over_ranks(mask.sum())
    return values.masked_fill(~mask, 0.0).sum() * world_size() / count.clamp(min=1)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = rows.shape[0]
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = sum_over_ranks(grads[0].contiguous())
        return total.narrow(0, rank() * ctx.rows, ctx.rows)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return sum_over_ranks(grads[0].contiguous())
