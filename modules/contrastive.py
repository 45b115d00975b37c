"""Cross-entropies over a batch and over a queue of negatives (METHOD sections 3 and 4).

Shapes: N rows of a similarity matrix, B rows, D joint width, M keys in a queue.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.numerics import l2_normalize, without_autocast


def in_batch_cross_entropy(similarity: Tensor) -> Tensor:
    """CE(S) + CE(S transposed) of S [N, N] whose diagonal holds the positives; a scalar."""
    target = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)


@without_autocast
def negative_logsumexp(queries: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """log sum exp(query . key / temperature) over the keys of `queue` [D, M]: queries [..., D] -> [...].

    Columns of zeros are places without a key (padded frames) and do not count.
    """
    logits = l2_normalize(queries) @ queue / temperature
    empty = ~queue.any(dim=0)
    return logits.masked_fill(empty, torch.finfo(logits.dtype).min).logsumexp(dim=-1)


@without_autocast
def queue_cross_entropy(queries: Tensor, keys: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy, for every row, of its own key against the queue: [..., D] and [..., D] -> [...].

    `negatives` [...] is the queries' `negative_logsumexp`. Only the own key is positive,
    only the queue is negative. Leading dimensions broadcast.
    """
    positives = (l2_normalize(queries) * l2_normalize(keys)).sum(dim=-1) / temperature
    # -log(e^p / (e^p + e^n)), written so that nothing overflows.
    return F.softplus(negatives - positives)
