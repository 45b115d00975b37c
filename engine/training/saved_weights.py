"""Which weights of a training are evaluated and saved: those that are trained, or their average (`--ema`)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.checkpoint.files import State, read_state
from engine.distributed.sharding import full_state, load_full_state
from engine.training.weight_average import WeightAverage
from modules.dual_encoder import DualEncoder


class SavedWeights:
    """The weights of `model` in its checkpoints, evaluations and training states.

    A checkpoint holds the averaged weights if `ema` is above 0, else those that are trained. A training state
    holds both, the former under "ema".
    """

    def __init__(self, model: DualEncoder, *, ema: float = 0.0) -> None:
        self.model = model
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
        return full_state(self.model, keep=keep)

    def load_checkpoint(self, path: Path) -> None:
        """Load a checkpoint of this training for its evaluation; no training follows."""
        load_full_state(self.model, read_state(path))

    def contents(self, *, keep: bool) -> dict[str, Any]:
        """The parts of a training state that hold weights, as copies on the CPU. Collective."""
        contents: dict[str, Any] = {"model": full_state(self.model, keep=keep, copy=True)}
        if self._average is not None:
            contents["ema"] = self._average.state(keep=keep)
        return contents

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `contents` adds to "model", which the model was built with."""
        if self._average is not None:
            self._average.load_state(state["ema"])
