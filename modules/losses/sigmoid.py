"""A yes or no for every pair of a text and a clip (`--loss sigmoid`).

Zhai et al., Sigmoid Loss for Language Image Pre-Training (SigLIP), ICCV 2023, arXiv 2303.15343. The bias is
added to the logits, as in the paper's pseudo-code and in open_clip; the paper's printed formula subtracts it.

Shapes: N clips of all ranks, T texts of this rank, F frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.gather import world_size
from modules.losses.batch_loss import BatchLoss
from modules.numerics import without_autocast


class SigmoidLoss(BatchLoss):
    """The sum over all pairs of log(1 + exp(-z l)), divided by the number of clips.

    l is the logit of a pair, z is 1 for a text and its own clip, else -1. For single frames the sum is also
    over the frame positions, and it is divided by the number of real frames.
    """

    by_rows = True
    start = (10.0, -10.0)  # the paper's

    def __call__(
        self, logits: Tensor, *, excluded: Tensor | None = None, real: Tensor | None = None, first: int = 0
    ) -> Tensor:
        return _sum_over_pairs(logits, excluded, real, first)

    def chance(self, clips: int) -> float:
        """All logits are equal, and such that exp(-l) = clips - 1, for which the loss is smallest."""
        if clips == 1:
            return 0.0
        return math.log(clips) + (clips - 1) * math.log(clips / (clips - 1))


@without_autocast
def _sum_over_pairs(logits: Tensor, excluded: Tensor | None, real: Tensor | None, first: int) -> Tensor:
    texts, clips = logits.shape[-2:]
    rows = torch.arange(first, first + texts, device=logits.device)
    is_positive = rows.unsqueeze(1) == torch.arange(clips, device=logits.device)
    losses = -F.logsigmoid(logits.where(is_positive, -logits))
    if excluded is not None:
        losses = losses.masked_fill(excluded, 0.0)
    if real is None:
        positives: int | Tensor = logits[..., 0, :].numel()
    else:
        losses = losses.masked_fill(~real.unsqueeze(-2), 0.0)
        positives = real.sum().clamp(min=1)
    # This rank has `texts` of the `clips` rows. The mean over the ranks is the sum over all rows.
    ranks = world_size() if texts < clips else 1
    return ranks * losses.sum() / positives
