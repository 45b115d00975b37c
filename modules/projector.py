"""Projector and predictor: small MLPs, with BatchNorm over the rows of all ranks (Shen et al. 2023).

Shapes: M rows on this rank (real frames of its clips; ranks may differ), C channels, D joint width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.gather import sum_over_ranks, sum_over_ranks_with_grad, world_size
from modules.numerics import at_least_float32, without_autocast


class Projector(nn.Module):
    """(Linear, BatchNorm, ReLU) x (num_layers - 1), then Linear: [M, D] -> [M, D].

    State names are the published ones: `linear_hidden.1` (Linear), `.2` (BatchNorm) and `linear_out`.
    """

    def __init__(self, width: int, *, hidden_width: int = 4096, num_layers: int = 2) -> None:
        super().__init__()
        assert num_layers >= 1
        # Published checkpoints count the layers from 1, so layer 0 does nothing.
        layers: list[nn.Module] = [nn.Identity()]
        last_width = width
        for _ in range(num_layers - 1):
            layers += [nn.Linear(last_width, hidden_width), SyncBatchNorm1d(hidden_width), nn.ReLU()]
            last_width = hidden_width
        self.linear_hidden = nn.Sequential(*layers)
        self.linear_out = nn.Linear(last_width, width)

    def forward(self, rows: Tensor) -> Tensor:
        projected: Tensor = self.linear_out(self.linear_hidden(rows))
        return projected


class SyncBatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d, with the same state names, whose statistics while training cover the rows of all ranks.

    torch's SyncBatchNorm needs an accelerator; this one also gives runs on CPUs (gloo) the same numbers. In
    one process, or in eval mode, it is nn.BatchNorm1d. Running statistics do not take up values that are not
    finite, so that a skipped step does not change them.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise `rows` [M, C]."""
        if not self.training:
            return super().forward(rows)
        if world_size() == 1:
            return self._forward_alone(rows)
        normalized: Tensor = self._forward_over_ranks(rows)
        return normalized

    def _forward_alone(self, rows: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        normalized = F.batch_norm(rows, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
        for statistic, new in ((self.running_mean, mean), (self.running_var, variance)):
            statistic.copy_(torch.where(torch.isfinite(new), new, statistic))
        self.num_batches_tracked.add_(1)
        return normalized

    def _forward_over_ranks(self, rows: Tensor) -> Tensor:
        mean, variance, count = _statistics(rows)
        self._track(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return ((at_least_float32(rows) - mean) * scale + self.bias).to(rows.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics as nn.BatchNorm1d does: moving averages, of the unbiased variance."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        unbiased = variance * (count / (count - 1).clamp(min=1))
        for statistic, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            new = new.to(statistic.dtype)
            statistic.lerp_(torch.where(torch.isfinite(new), new, statistic), self.momentum)
        self.num_batches_tracked.add_(1)


@without_autocast
def _statistics(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C] and biased variance [C], both with gradient, and number of rows, over all ranks.

    In two passes, first the mean, then squared distances: a sum of squares loses digits where the mean is
    large.
    """
    rows = at_least_float32(rows)
    # full() is filled on the device; tensor() would be copied there, and the CPU would wait.
    count = sum_over_ranks(torch.full((), float(rows.shape[0]), device=rows.device, dtype=rows.dtype))
    mean = sum_over_ranks_with_grad(rows.sum(0)) / count
    variance = sum_over_ranks_with_grad((rows - mean).square().sum(0)) / count
    return mean, variance, count
