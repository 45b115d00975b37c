"""--mask_duplicates: clips of one batch that are not used as each other's negatives.

Shapes: B clips of this rank, N clips of all ranks, W words.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modules import host_masks
from modules.gather import gather, rank


def find_duplicates(batch: Mapping[str, Tensor], *, text: str | None = "text") -> Tensor:
    """The duplicate mask, bool [N, N], equal on all ranks: True where two clips have the same video or text.

    Videos are compared by `video`, texts by the ids in `{text}_ids` (`text` None: only videos are compared).
    The diagonal is False.
    """
    identities = [gather(batch[name]) for name in ("video", f"{text}_ids") if name in batch]
    assert identities, "the batch has neither the numbers of videos nor the ids of texts"
    return torch.stack([_equal_rows(identity) for identity in identities]).any(dim=0).fill_diagonal_(False)


def find_other_languages(batch: Mapping[str, Tensor], device: torch.device) -> Tensor | None:
    """Bool [N, N] on `device`, equal on all ranks: True where two texts have different languages.

    None if the batch does not say its languages.
    """
    if "language" not in batch:
        return None
    languages = gather(host_masks.on_device(batch["language"], device))
    return languages.unsqueeze(1) != languages


def rows_of_this_rank(matrix: Tensor, clips: int) -> Tensor:
    """The rows [B, N] of `matrix` [N, N] that belong to the `clips` of this rank."""
    return matrix[rank() * clips : (rank() + 1) * clips]


def _equal_rows(identities: Tensor) -> Tensor:
    """[N] or [N, W] -> [N, N]. Rows are numbered first: comparing all words of all pairs takes N * N * W.

    They are sorted by their last word, then by the one before, and so on. A sort keeps the order of equals.
    `torch.unique` would number them too, but the CPU waits for the number of different rows.
    """
    rows = identities.reshape(len(identities), -1)
    order = torch.arange(len(rows), device=rows.device)
    for word in reversed(range(rows.shape[1])):
        order = order[rows[order, word].argsort(stable=True)]
    ordered = rows[order]
    differs = (ordered[1:] != ordered[:-1]).any(dim=1)  # from the row before
    number = torch.zeros_like(order).index_copy(0, order[1:], differs.cumsum(0))
    return number.unsqueeze(1) == number
