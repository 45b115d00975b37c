"""The top K candidates of each query, updated tile by tile.

Q queries, K = 10; a tile has n queries and m candidates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.distributed.world import World

TOP_K = 10


class TopK:
    """`scores` [Q, K], the best first (-inf: empty), and the candidates' `ids` int64 [Q, K] (-1: empty).

    Candidates must come in the order of their ids. Of tied candidates the lower id comes first, whatever the
    tiles are.
    """

    def __init__(self, queries: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self.scores = torch.full((queries, TOP_K), -torch.inf, device=device, dtype=dtype)
        self.ids = torch.full((queries, TOP_K), -1, device=device)
        self.in_passes = device.type != "cpu"  # the result is the same

    def update(self, scores: Tensor, ids: Tensor, *, first: int = 0) -> None:
        """Add the candidates `ids` [m] with `scores` [n, m] to the n queries that start at `first`."""
        rows = slice(first, first + len(scores))
        # Sorting is slow, and in most tiles only few queries have a better candidate.
        improved = (scores.amax(dim=1) > self.scores[rows, -1]).nonzero().squeeze(1)
        if not len(improved):
            return
        queries = improved + first
        candidates, numbers = scores[improved], ids.expand(len(improved), -1)
        if self.in_passes:
            candidates, numbers = top_in_passes(candidates, numbers)
        self.scores[queries], self.ids[queries] = _top(
            torch.cat([self.scores[queries], candidates], dim=1),
            torch.cat([self.ids[queries], numbers], dim=1),
        )

    def merge_ranks(self, world: World) -> None:
        """Merge the top K of all ranks. Lower ranks must have had lower ids."""
        if world.size > 1:
            gathered = (world.gather_rows(part[None]) for part in (self.scores, self.ids))  # [ranks, Q, K]
            self.scores, self.ids = _top(*(part.transpose(0, 1).flatten(1) for part in gathered))

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, scores in float32)."""
        return self.ids.cpu().numpy(), self.scores.float().cpu().numpy()


def top_in_passes(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The top K of each row in K passes, each of which takes the first of the largest; overwrites `scores`.

    A GPU reads a wide tile K times faster than it sorts it, because a stable sort also moves indices.
    """
    taken = []
    for _ in range(min(TOP_K, scores.shape[1])):
        largest, positions = scores.max(dim=1, keepdim=True)  # the first position if several are largest
        taken.append((largest, ids.gather(1, positions)))
        scores.scatter_(1, positions, -torch.inf)
    best, numbers = zip(*taken, strict=True)
    return torch.cat(best, dim=1), torch.cat(numbers, dim=1)


def _top(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The top K of each row. The sort is stable, so tied candidates keep their order."""
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.values[:, :TOP_K], ids.gather(1, ranked.indices[:, :TOP_K])
