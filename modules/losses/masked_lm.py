"""Masked-word prediction from the text encoder's word features (Shen et al. 2023).

Shapes: M masked positions, D joint width, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modules.gather import sum_over_ranks, world_size
from modules.numerics import at_least_float32

IGNORED_LABEL = -100  # at positions that are not masked


class MaskedLMHead(nn.Module):
    """Linear(D, D), GELU, LayerNorm(eps 1e-12), Linear(D, V) with bias.

    State names are the published ones (BERT's). `bias` and `decoder.bias` are the same tensor.
    """

    def __init__(self, width: int, *, vocab_size: int) -> None:
        super().__init__()
        self.transform = _Transform(width)
        self.decoder = nn.Linear(width, vocab_size)
        nn.init.normal_(self.decoder.weight, std=0.02)
        nn.init.zeros_(self.decoder.bias)
        self.bias = self.decoder.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [M, V] of word features [M, D]."""
        logits: Tensor = self.decoder(self.transform(hidden))
        return logits


class _Transform(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, hidden: Tensor) -> Tensor:
        normalized: Tensor = self.LayerNorm(F.gelu(self.dense(hidden)))
        return normalized


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the masked positions of all ranks, whose labels are not -100; a scalar.

    `logits` [..., V], `labels` [...]. The value is this rank's share: the average of the shares over the
    ranks is that mean. 0 with zero gradient where nothing is masked.
    """
    flat_labels = labels.reshape(-1)
    total = F.cross_entropy(
        at_least_float32(logits).reshape(-1, logits.shape[-1]),
        flat_labels,
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
    count = sum_over_ranks((flat_labels != IGNORED_LABEL).sum())
    return total * world_size() / count.clamp(min=1)
