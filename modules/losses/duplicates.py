"""`--mask_duplicates`: clips of one batch that are no negatives of each other.

Shapes: B clips of this rank, N clips of all ranks, W words.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modules.gather import gather, rank


def find_duplicates(batch: Mapping[str, Tensor], *, text: str | None = "text") -> Tensor:
    """Bool [N, N], the same on every rank: True where two clips show one video or have one text.

    Videos are the same by `video`, texts by their ids, those of `{text}_ids` (None: texts do not count). A
    clip is no duplicate of itself.
    """
    identities = [gather(batch[name]) for name in ("video", f"{text}_ids") if name in batch]
    assert identities, "the batch says neither which video nor which text a clip has"
    same = torch.stack([_equal(identity) for identity in identities]).any(dim=0)
    return same.fill_diagonal_(False)


def own_rows(matrix: Tensor, clips: int) -> Tensor:
    """The rows [B, N] of this rank's `clips`."""
    return matrix[rank() * clips : (rank() + 1) * clips]


def _equal(identities: Tensor) -> Tensor:
    """[N] or [N, W] -> [N, N]. Rows are numbered first: comparing all words of all pairs takes N * N * W."""
    _, number = torch.unique(identities, dim=0, return_inverse=True)
    return number.unsqueeze(1) == number
