"""Cross-entropies over a batch and over a queue of negatives (METHOD sections 3 and 4).

Shapes: N rows of a similarity matrix, B clips of this rank, F frames, D joint width, M negative keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.gather import gather, rank
from modules.numerics import l2_normalize, without_autocast


@dataclass(frozen=True)
class BatchKeys:
    """The keys of this step's clips on all ranks, as negatives in place of a queue (an ablation).

    `keys` [D, M], unit vectors or zeros; `own` [B, M] is True on the keys of a row's own clip and of
    its duplicates, no negatives.
    """

    keys: Tensor
    own: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> BatchKeys:
        """From this rank's keys [B, D] or [B, F, D]."""
        clips = len(keys)
        width = 1 if keys.dim() == 2 else keys.shape[1]
        gathered = gather(l2_normalize(keys)).reshape(-1, keys.shape[-1])
        clip_of_key = torch.arange(len(gathered), device=keys.device) // width
        own_clip = torch.arange(clips, device=keys.device) + rank() * clips
        return cls(gathered.T.contiguous(), clip_of_key == own_clip.unsqueeze(1))

    def without(self, same: Tensor | None) -> BatchKeys:
        """Also without the keys of `same` [B, N]: for each of our clips, those of all ranks to leave out."""
        if same is None:
            return self
        width = self.own.shape[1] // same.shape[1]
        return BatchKeys(self.keys, self.own | same.repeat_interleave(width, dim=1))


Negatives = Tensor | BatchKeys  # a queue [D, M], or this step's keys


def in_batch_cross_entropy(similarity: Tensor) -> Tensor:
    """CE(S) + CE(S transposed) of S [N, N] whose diagonal holds the positives; a scalar."""
    target = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)


@without_autocast
def negative_logsumexp(queries: Tensor, negatives: Negatives, *, temperature: float) -> Tensor:
    """log sum exp(query . key / temperature) over the negative keys.

    Queries [B, D] give [B], queries [B, F, D] give [B, F]. Columns of zeros are places without a key (padded
    frames) and do not count.
    """
    keys = negatives.keys if isinstance(negatives, BatchKeys) else negatives
    logits = l2_normalize(queries) @ keys / temperature
    excluded = ~keys.any(dim=0)
    if isinstance(negatives, BatchKeys):
        own = negatives.own if queries.dim() == 2 else negatives.own.unsqueeze(1)
        excluded = excluded | own
    return logits.masked_fill(excluded, torch.finfo(logits.dtype).min).logsumexp(dim=-1)


@without_autocast
def queue_cross_entropy(queries: Tensor, keys: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy, for every row, of its own key against the queue: [..., D] and [..., D] -> [...].

    `negatives` [...] is the queries' `negative_logsumexp`. Only the own key is positive,
    only the queue is negative. Leading dimensions broadcast.
    """
    positives = (l2_normalize(queries) * l2_normalize(keys)).sum(dim=-1) / temperature
    # -log(e^p / (e^p + e^n)), written so that nothing overflows.
    return F.softplus(negatives - positives)
