"""Momentum encoders and the queue of their newest outputs (METHOD section 4).

Shapes: D joint width, K clips in the queue, N clips of all ranks, w vectors a clip (1, or F frames).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from modules.gather import gather
from modules.numerics import l2_normalize

Module = TypeVar("Module", bound=nn.Module)

POINTER = "queue_ptr"


def momentum_copy(module: Module) -> Module:
    """A copy whose parameters get no gradients."""
    key_module = copy.deepcopy(module)
    key_module.requires_grad_(False)
    return key_module


@torch.no_grad()
def momentum_update(key_module: nn.Module, query_module: nn.Module, *, momentum: float) -> None:
    """Parameters become momentum * key + (1 - momentum) * query; buffers stay as they are."""
    keys: list[Tensor] = [parameter.detach() for parameter in key_module.parameters()]
    queries: list[Tensor] = [parameter.detach() for parameter in query_module.parameters()]
    assert len(keys) == len(queries)
    torch._foreach_mul_(keys, momentum)
    torch._foreach_add_(keys, queries, alpha=1 - momentum)


class FeatureQueue:
    """The keys of the newest K clips, in several kinds that move together.

    The columns live in buffers of `owner` under the published names. `widths` gives each kind's w: its
    buffer is [D, K * w], clip k at columns k * w to (k + 1) * w, all unit vectors or zero. Zero marks
    padding, which is no key; kept so, it survives in checkpoints. `queue_ptr` [1] is the place of the next
    clip. Queues start as normalised noise. `pushes` and `clips` count what this run has put in.
    """

    def __init__(self, owner: nn.Module, *, size: int, dim: int, widths: Mapping[str, int]) -> None:
        if size < 1:
            raise ValueError(f"--contrast_num_negative {size}: the queue must hold at least 1 clip")
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
        """Pushes since the oldest key that a model made went in."""
        if not self.pushes:
            return 0
        return min(self.pushes, math.ceil(self.size * self.pushes / self.clips))

    @property
    def filled(self) -> float:
        """Share of the queue that holds keys of this run instead of what it started with."""
        return min(1.0, self.clips / self.size)

    def snapshot(self, name: str) -> Tensor:
        """The kind's columns [D, K * w] as they are now; a later push does not change them."""
        columns: Tensor = self.owner.get_buffer(name)
        return columns.clone()

    @torch.no_grad()
    def push(self, keys: Mapping[str, Tensor]) -> None:
        """Write the clips of all ranks over the oldest ones; `keys` are this rank's, [B, D] or [B, w, D].

        Any number of clips wraps around; of more than K the newest K stay. Kinds that are not given keep
        what they hold. A key that is not finite goes in as "no key": a step that is skipped for it leaves
        the queue usable.
        """
        pointer = self.owner.get_buffer(POINTER)
        clips = 0
        for name, values in keys.items():
            gathered = gather(l2_normalize(values))
            finite = torch.isfinite(gathered).all(dim=-1, keepdim=True)
            gathered = gathered.masked_fill(~finite, 0.0)
            assert clips in (0, len(gathered)), "kinds of one push differ in their number of clips"
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
