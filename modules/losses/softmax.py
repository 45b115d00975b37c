"""In-batch cross-entropy over the texts and over the clips of a batch (`--loss softmax`, the published loss).

With `--hard_negatives` BETA above 0 each negative has a weight that grows with its similarity
(Robinson et al., Contrastive Learning with Hard Negative Samples, ICLR 2021, arXiv 2010.04592; between images
and texts: Radenovic et al., Filtering, Distillation, and Hard Negatives, CVPR 2023, arXiv 2301.02280).

Shapes: N clips of all ranks, F frames.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from modules.losses.batch_loss import BatchLoss, mean_of_real
from modules.losses.contrastive import in_batch_cross_entropy
from modules.numerics import lowest, without_autocast


class SoftmaxLoss(BatchLoss):
    """The sum of both directions, each the mean over its positives p of log(1 + sum of w_j exp(l_j - p)).

    l_j are the logits of the negatives. w_j = 1 without hard negatives. With BETA the weights are
    w_j = n exp(BETA l_j) / sum_k exp(BETA l_k) over the n negatives, so their mean is 1. They are not
    detached: the gradient passes through them, as in the formula of the papers.
    """

    def __init__(self, *, hard_negatives: float = 0.0) -> None:
        assert hard_negatives >= 0
        self.hard_negatives = hard_negatives

    def __call__(
        self, logits: Tensor, *, excluded: Tensor | None = None, real: Tensor | None = None, first: int = 0
    ) -> Tensor:
        assert not first and logits.shape[-1] == logits.shape[-2]
        if self.hard_negatives:
            return _weighted(logits, excluded, real, self.hard_negatives)
        if excluded is not None:
            logits = logits.masked_fill(excluded, lowest(logits))
        if logits.dim() == 2 and real is None:
            return in_batch_cross_entropy(logits)
        return _at_frames(logits, real)

    def chance(self, clips: int) -> float:
        """All logits are equal, so the choice is one of `clips`, in both directions."""
        return 2.0 * math.log(clips)


@without_autocast
def _at_frames(logits: Tensor, real: Tensor | None) -> Tensor:
    """The mean over frames and clips of both directions; `logits` [F, text, clip]."""
    positives = logits.diagonal(dim1=-2, dim2=-1)  # [F, N]
    texts = logits if real is None else logits.masked_fill(~real.unsqueeze(-2), lowest(logits))
    text_to_clip = texts.logsumexp(dim=-1) - positives
    return mean_of_real(text_to_clip + logits.logsumexp(dim=-2) - positives, real)


@without_autocast
def _weighted(logits: Tensor, excluded: Tensor | None, real: Tensor | None, beta: float) -> Tensor:
    """The loss with weighted negatives.

    log sum_j w_j exp(l_j) = log n + log sum_j exp((1 + beta) l_j) - log sum_k exp(beta l_k).
    """
    positives = logits.diagonal(dim1=-2, dim2=-1)
    none = logits.new_ones(logits.shape[-1]).diag().bool()  # pairs that are no negatives
    if excluded is not None:
        none = none | excluded
    of_texts = none if real is None else none | ~real.unsqueeze(-2)
    terms = []
    for pairs, dim in ((of_texts, -1), (none, -2)):
        counts = (~pairs).sum(dim=dim)
        harder = ((1 + beta) * logits).masked_fill(pairs, lowest(logits)).logsumexp(dim=dim)
        weights = (beta * logits).masked_fill(pairs, lowest(logits)).logsumexp(dim=dim)
        negatives = counts.clamp(min=1).to(logits.dtype).log() + harder - weights
        # Without a negative the loss is 0.
        terms.append(F.softplus(negatives.masked_fill(counts == 0, lowest(logits)) - positives))
    return mean_of_real(terms[0] + terms[1], real)
