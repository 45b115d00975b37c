"""Cross-entropies over a batch and over a queue of negatives (Shen et al. 2023).

Shapes: N rows of a similarity matrix, B clips of this rank, F frames, D joint width, M negative keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.gather import gather, rank
from modules.numerics import l2_normalize, lowest, without_autocast


@dataclass(frozen=True)
class BatchKeys:
    """In-batch negatives: the keys of all ranks' clips, in place of a queue (an ablation).

    `keys` [D, M] are unit vectors or zeros. `excluded` [B, M] is True on the keys that are not negatives of a
    clip: those of the clip itself and of its duplicates.
    """

    keys: Tensor
    excluded: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> BatchKeys:
        """From this rank's keys [B, D] or [B, F, D]."""
        clips = len(keys)
        width = 1 if keys.dim() == 2 else keys.shape[1]
        gathered = gather(l2_normalize(keys)).reshape(-1, keys.shape[-1])
        clip_of_key = torch.arange(len(gathered), device=keys.device) // width
        clip_of_row = torch.arange(clips, device=keys.device) + rank() * clips
        return cls(gathered.T.contiguous(), clip_of_key == clip_of_row.unsqueeze(1))

    def mask_duplicates(self, duplicate_mask: Tensor | None) -> BatchKeys:
        """Exclude duplicates too: `duplicate_mask` [B, N] has this rank's clips by those of all ranks."""
        if duplicate_mask is None:
            return self
        width = self.excluded.shape[1] // duplicate_mask.shape[1]
        return BatchKeys(self.keys, self.excluded | duplicate_mask.repeat_interleave(width, dim=1))


Negatives = Tensor | BatchKeys  # a queue [D, M], or in-batch negatives


def in_batch_cross_entropy(similarity: Tensor) -> Tensor:
    """CE(S) + CE(S transposed) of S [N, N], whose diagonal is the positives; a scalar."""
    target = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)


@without_autocast
def negative_logsumexp(queries: Tensor, negatives: Negatives, *, temperature: float) -> Tensor:
    """log sum exp(query . key / temperature) over the negative keys.

    Queries [B, D] give [B], queries [B, F, D] give [B, F]. Columns of zeros, such as padded frames, are not
    keys.
    """
    keys = negatives.keys if isinstance(negatives, BatchKeys) else negatives
    logits = l2_normalize(queries) @ keys / temperature
    excluded = ~keys.any(dim=0)
    if isinstance(negatives, BatchKeys):
        excluded = excluded | (negatives.excluded if queries.dim() == 2 else negatives.excluded.unsqueeze(1))
    return logits.masked_fill(excluded, lowest(logits)).logsumexp(dim=-1)


@without_autocast
def queue_cross_entropy(queries: Tensor, keys: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of each query's key against its negatives: [..., D] and [..., D] -> [...].

    `negatives` [...] is the queries' `negative_logsumexp`. Leading dimensions broadcast.
    """
    positives = (l2_normalize(queries) * l2_normalize(keys)).sum(dim=-1) / temperature
    # -log(e^p / (e^p + e^n)), in a form that does not overflow.
    return F.softplus(negatives - positives)
