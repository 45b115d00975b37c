"""The best candidates of each query so far.

Q queries, K = 10 places, n x m the queries and candidates of a tile.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.distributed.world import World

KEPT = 10


class TopK:
    """`scores` [Q, K] from the best down (-inf: empty) and `ids` int64 [Q, K] (-1: empty).

    Candidates come in the order of their ids; of equal ones the first stays first, however they are cut
    into tiles.
    """

    def __init__(self, queries: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self.scores = torch.full((queries, KEPT), -torch.inf, device=device, dtype=dtype)
        self.ids = torch.full((queries, KEPT), -1, device=device)

    def update(self, scores: Tensor, ids: Tensor, *, first: int = 0) -> None:
        """Show the queries from `first` on the candidates `ids` [m] with `scores` [n, m]."""
        rows = slice(first, first + len(scores))
        # Most tiles hold nothing new for most queries, and sorting is the expensive part.
        better = (scores.amax(dim=1) > self.scores[rows, -1]).nonzero().squeeze(1)
        if not len(better):
            return
        place = better + first
        new_ids = ids.expand(len(better), -1)
        self.scores[place], self.ids[place] = _best(
            torch.cat([self.scores[place], scores[better]], dim=1),
            torch.cat([self.ids[place], new_ids], dim=1),
        )

    def over_ranks(self, world: World) -> None:
        """Join what the ranks have seen; lower ranks have seen lower ids."""
        if world.size > 1:
            both = (world.gather_rows(kept[None]) for kept in (self.scores, self.ids))
            self.scores, self.ids = _best(*(kept.transpose(0, 1).flatten(1) for kept in both))

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, scores in float32)."""
        return self.ids.cpu().numpy(), self.scores.float().cpu().numpy()


def _best(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The K best of each row, equal ones in their order."""
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.values[:, :KEPT], ids.gather(1, ranked.indices[:, :KEPT])
