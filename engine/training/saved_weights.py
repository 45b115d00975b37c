"""Which weights of a training are evaluated and saved: those that are trained, or their average (`--ema`).

Adapters (`--lora`) are saved as changes of the weights that they belong to, under the published names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint.files import State, read_state
from engine.distributed.sharding import copy_full, full_state, load_full_state
from engine.training.weight_average import WeightAverage
from modules.adapters import AdapterNames
from modules.dual_encoder import DualEncoder


class SavedWeights:
    """The weights of `model` in its checkpoints, evaluations and training states.

    A checkpoint holds the averaged weights if `ema` is above 0, else those that are trained. A training state
    holds both, the former under "ema". In both files a model with adapters looks like one without; a state
    also has the adapters and the weights that they add to, under "lora".
    """

    def __init__(self, model: DualEncoder, *, ema: float = 0.0) -> None:
        self.model = model
        self._adapters = AdapterNames.of(model)
        self._average = WeightAverage(model, ema) if ema else None

    def describe(self) -> str | None:
        """What a checkpoint holds, for the log; None if it holds the weights that are trained."""
        if self._average is None:
            return None
        return (
            f"checkpoints and evaluations: the averaged weights (--ema {self._average.decay:g}); training "
            "states hold the weights that are trained, and the average beside them"
        )

    def after_step(self) -> None:
        """Called after each optimiser step."""
        self.model.after_step()
        if self._average is not None:
            self._average.update()

    def as_saved(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the model holds the weights that a checkpoint holds."""
        return contextlib.nullcontext() if self._average is None else self._average.applied()

    def checkpoint(self, *, keep: bool) -> State:
        """The tensors of a checkpoint, inside a block of `as_saved`; none if `keep` is False. Collective."""
        state = full_state(self.model, keep=keep)
        return state if self._adapters is None else self._adapters.merge(state)

    def load_checkpoint(self, path: Path) -> None:
        """Load a checkpoint of this training for its evaluation; no training follows."""
        state = read_state(path)
        if self._adapters is not None:
            state = self._adapters.unmerge(state, self.model.state_dict())
        load_full_state(self.model, state)

    def contents(self, *, keep: bool) -> dict[str, Any]:
        """The parts of a training state that hold weights, as copies on the CPU. Collective."""
        state = full_state(self.model, keep=keep, copy=True)
        contents: dict[str, Any] = {"model": state}
        if self._adapters is not None:
            own = self._adapters.own
            contents = {
                "model": self._adapters.merge(state),
                "lora": {name: tensor for name, tensor in state.items() if name in own},
            }
        if self._average is not None:
            contents["ema"] = self._average.state(keep=keep)
        return contents

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `contents` adds to "model", which the model was built with."""
        if self._adapters is not None:
            self._load_own(state["lora"])
        if self._average is not None:
            self._average.load_state(state["ema"])

    @torch.no_grad()
    def _load_own(self, saved: Mapping[str, torch.Tensor]) -> None:
        assert self._adapters is not None and saved.keys() == self._adapters.own
        for name, target in self.model.state_dict().items():
            if name in saved:
                copy_full(target, saved[name])
