"""BatchNorm whose training statistics cover the rows of all ranks, on any device and backend.

torch's own SyncBatchNorm works on accelerators only; this one lets a run on CPUs (gloo) compute the same
numbers as a run on GPUs. Shapes: M rows on this rank (they may differ between ranks), C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.gather import sum_over_ranks, sum_over_ranks_with_grad, world_size
from modules.numerics import at_least_float32, without_autocast


class SyncBatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d (same state names) with statistics over all ranks while training.

    In one process, or in eval mode, it is nn.BatchNorm1d itself. A channel whose statistics are not finite
    keeps its running ones: a step that is skipped for it leaves no trace.
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
        """Running statistics as nn.BatchNorm1d keeps them: exponential, variance unbiased."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        unbiased = variance * (count / (count - 1).clamp(min=1))
        for statistic, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            new = new.to(statistic.dtype)
            statistic.lerp_(torch.where(torch.isfinite(new), new, statistic), self.momentum)
        self.num_batches_tracked.add_(1)


@without_autocast
def _statistics(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C] and number of rows over all ranks; the first two carry gradients.

    Two passes (mean first, then squared distances): one pass of squares loses digits where the mean is large.
    """
    rows = at_least_float32(rows)
    count = sum_over_ranks(torch.tensor(float(rows.shape[0]), device=rows.device, dtype=rows.dtype))
    mean = sum_over_ranks_with_grad(rows.sum(0)) / count
    variance = sum_over_ranks_with_grad((rows - mean).square().sum(0)) / count
    return mean, variance, count
