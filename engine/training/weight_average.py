"""`--ema`: the moving average of the weights over the steps, which is evaluated and saved in their place.

As Polyak and Juditsky 1992, with the exponential weights of Mean Teachers (Tarvainen and Valpola 2017,
arXiv 1703.01780).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from engine.distributed.sharding import copy_full, full_copy, local_part


class WeightAverage:
    """The average of every weight that is trained: after each step it is `decay` * average + (1 - `decay`) *
    weight.

    It starts as the weights. A skipped step counts as a step that changed nothing. Weights that are not
    trained, and buffers, have no average. Where weights are sharded each rank averages its shards; otherwise
    all ranks have equal averages. While `applied`, the model holds the averages and this object the weights:
    then there is no `update`, and no second `applied`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        assert 0.0 < decay < 1.0
        self.decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._weights.items()}
        self._is_applied = False

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step. The CPU does not wait for a GPU."""
        assert not self._is_applied, "the model holds the averages, not the weights"
        averages, weights = self._parts()
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A block in which the model holds the averages; afterwards it holds its weights, bit for bit."""
        assert not self._is_applied
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self, *, keep: bool) -> dict[str, Tensor]:
        """Copies of the averages by name, full tensors on the CPU; empty if `keep` is False. Collective where
        weights are sharded."""
        assert not self._is_applied
        state: dict[str, Tensor] = {}
        for name, average in self._averages.items():
            full = full_copy(average, keep=keep)
            if full is not None:
                state[name] = full
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        assert not self._is_applied and state.keys() == self._averages.keys()
        for name, average in self._averages.items():
            copy_full(average, state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(*self._parts(), strict=True):
            kept = weight.clone()  # one tensor at a time
            weight.copy_(average)
            average.copy_(kept)
        self._is_applied = not self._is_applied

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """This rank's parts of the averages and of the weights."""
        kinds = (self._averages, self._weights)
        averages, weights = ([local_part(tensor) for tensor in kind.values()] for kind in kinds)
        return averages, weights
