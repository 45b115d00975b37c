"""Functions that `kill_training.py` calls inside a run: they report its phases and cause faults."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Container
from typing import Any

import engine.checkpoint.state_writer
from engine.evaluation.encode import Evaluator
from engine.training.trainer import Trainer
from modules.pretrain_model import PretrainModel

PHASE_OF = {b"s": "step", b"w": "save", b"e": "evaluate", b"b": "between epochs"}
# How long a phase takes, roughly: the kill comes at a random moment of it.
SECONDS = {"step": 0.15, "save": 0.06, "evaluate": 0.15, "between epochs": 0.1}


def before(owner: Any, name: str, act: Callable[[int], None], *, after: bool = False) -> None:
    """Call act(n) before (or after) the n-th call of `owner.name`, for the rest of this process."""
    original, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if not after:
            act(calls[0])
        result = original(*args, **kwargs)
        if after:
            act(calls[0])
        return result

    setattr(owner, name, wrapped)


def tell_phases(pipe: int) -> None:
    """Write one letter of `PHASE_OF` to `pipe` when a phase begins."""

    def note(letter: bytes) -> Callable[[int], None]:
        return lambda call: None if os.write(pipe, letter) else None

    before(Trainer, "_optimiser_step", note(b"s"))
    before(engine.checkpoint.state_writer, "write_state", note(b"w"))
    before(Evaluator, "encode", note(b"e"))
    before(Evaluator, "compute_metrics", note(b"b"), after=True)


def nothing() -> None:
    """No fault."""


def slow_steps() -> None:
    before(Trainer, "_optimiser_step", lambda call: time.sleep(1.0 if call >= 4 else 0.0))


def full_disk() -> None:
    """From the third state on, no file may be larger than half a state: writing fails as on a full disk."""
    sizes: list[int] = []

    def limit(call: int) -> None:
        if call == 3:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] // 2, hard))

    original = engine.checkpoint.state_writer.write_state

    def write_state(state: Any, path: Any) -> None:
        original(state, path)
        sizes.append(path.stat().st_size)

    engine.checkpoint.state_writer.write_state = write_state  # type: ignore[assignment]
    before(engine.checkpoint.state_writer, "write_state", limit)


def nan_losses(steps: Container[int]) -> None:
    """The losses of these training steps become NaN."""
    original, calls = PretrainModel.losses, [0]

    def losses(self: PretrainModel, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        values = original(self, *args, **kwargs)
        return {n: v * float("nan") for n, v in values.items()} if calls[0] in steps else values

    PretrainModel.losses = losses  # type: ignore[method-assign]
