"""Momentum encoders, and queues of their latest features (Shen et al. 2023).

Shapes: B clips of this rank, D joint width, K clips in the queue, w vectors a clip (1, or F frames).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.errors import UserError
from modules.gather import gather
from modules.numerics import l2_normalize

Module = TypeVar("Module", bound=nn.Module)

POINTER = "queue_ptr"


def momentum_copy(module: Module) -> Module:
    """A copy of `module` that gets no gradients."""
    key_module = copy.deepcopy(module)
    key_module.requires_grad_(False)
    return key_module


@torch.no_grad()
def momentum_update(key_module: nn.Module, query_module: nn.Module, *, momentum: float) -> None:
    """Parameters become momentum * key + (1 - momentum) * query; buffers are unchanged."""
    keys: list[Tensor] = [parameter.detach() for parameter in key_module.parameters()]
    queries: list[Tensor] = [parameter.detach() for parameter in query_module.parameters()]
    assert len(keys) == len(queries)
    torch._foreach_mul_(keys, momentum)
    torch._foreach_add_(keys, queries, alpha=1 - momentum)


class FeatureQueue:
    """The keys of the last K clips: several queues, by name, with one pointer.

    Each queue is a buffer [D, K * w] of `owner` under its published name; `widths` gives its w. Clip k has
    the columns k * w to (k + 1) * w: unit vectors, or zeros for padded frames, which are not keys (zeros keep
    this meaning in a checkpoint). The buffer `queue_ptr` [1] is the position of the next clip. Queues start
    as normalised noise. `pushes` and `clips` count what this run has pushed.
    """

    def __init__(self, owner: nn.Module, *, size: int, dim: int, widths: Mapping[str, int]) -> None:
        if size < 1:
            raise UserError(f"--contrast_num_negative {size}: the queue must hold at least 1 clip")
        self.owner = owner
        self.size = size
        self.widths = dict(widths)
        self.pushes = self.clips = 0
        for name, width in self.widths.items():
            owner.register_buffer(name, l2_normalize(torch.randn(size * width, dim)).T.contiguous())
        owner.register_buffer(POINTER, torch.zeros(1, dtype=torch.long))

    def __contains__(self, name: str) -> bool:
        return name in self.widths

    @property
    def age(self) -> int:
        """Number of pushes since the oldest key in the queue that is not initial noise."""
        if not self.pushes:
            return 0
        return min(self.pushes, math.ceil(self.size * self.pushes / self.clips))

    @property
    def filled(self) -> float:
        """Share of the queue that holds keys of this run, not initial noise."""
        return min(1.0, self.clips / self.size)

    def snapshot(self, name: str) -> Tensor:
        """A copy of the queue's columns [D, K * w]: a later push does not change it."""
        columns: Tensor = self.owner.get_buffer(name)
        return columns.clone()

    @torch.no_grad()
    def push(self, keys: Mapping[str, Tensor]) -> None:
        """Replace the oldest clips by those of all ranks; `keys` are this rank's, [B, D] or [B, w, D].

        Of more than K clips the last K are kept. Queues that are not in `keys` are unchanged. A key that is
        not finite is written as zeros ("no key"), so that the queue stays usable after a skipped step.
        """
        pointer = self.owner.get_buffer(POINTER)
        clips = 0
        for name, values in keys.items():
            gathered = gather(l2_normalize(values))
            finite = torch.isfinite(gathered).all(dim=-1, keepdim=True)
            gathered = gathered.masked_fill(~finite, 0.0)
            assert clips in (0, len(gathered)), "queues of one push differ in their number of clips"
            clips = len(gathered)
            self._write(name, gathered, pointer)
        pointer.copy_((pointer + clips) % self.size)
        self.pushes += 1
        self.clips += clips

    def _write(self, name: str, keys: Tensor, pointer: Tensor) -> None:
        columns = self.owner.get_buffer(name)
        keys = keys.unsqueeze(1) if keys.dim() == 2 else keys
        clips, width, dim = keys.shape
        assert width == self.widths[name] and columns.shape == (dim, self.size * width), (name, keys.shape)
        skipped = max(0, clips - self.size)
        places = (pointer + torch.arange(skipped, clips, device=columns.device)) % self.size
        by_clip = columns.view(dim, self.size, width)
        by_clip[:, places] = keys[skipped:].permute(2, 0, 1).to(columns.dtype)
