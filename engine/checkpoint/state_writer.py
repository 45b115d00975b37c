"""Saving: what the training loop does about states, signals and failed writes, on all ranks alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.checkpoint.random_state import random_state
from engine.checkpoint.resume import Position
from engine.checkpoint.state_keeper import StateKeeper
from engine.config import Config
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.process.errors import TrainingStopped
from engine.process.signals import StopRequest
from engine.training.trainer import Agreed, Hooks

GO_ON = "go on with the same command and --resume auto"


class Saving(Hooks):
    """Saves every --save_steps, at ends of epochs and before a stop.

    `contents` gives the parts of a state that belong to model, optimiser and run; it is called on all ranks,
    since sharded ones gather. `keeper` is rank 0's.
    """

    def __init__(
        self,
        config: Config,
        *,
        world: World,
        log: RunLog,
        stop: StopRequest,
        keeper: StateKeeper | None,
        contents: Callable[[], dict[str, Any]],
        steps_per_epoch: int,
    ) -> None:
        assert (keeper is not None) == world.is_main
        self.config = config
        self.world = world
        self.log = log
        self.stop = stop
        self.keeper = keeper
        self.contents = contents
        self.steps_per_epoch = steps_per_epoch

    def stop_wanted(self) -> bool:
        return self.stop.wanted

    def save_failed(self) -> bool:
        return self.keeper is not None and self.keeper.problem is not None

    def after_step(self, epoch: int, step: int, agreed: Agreed) -> None:
        """Save where it is time to. Raises `TrainingStopped` after a failed write, `StoppedBySignal` when a
        rank got a signal and all is saved."""
        if agreed.save_failed:
            self.finish()
        every = self.config.save_steps
        due = every > 0 and (epoch * self.steps_per_epoch + step) % every == 0
        # The end of an epoch is saved anyway.
        if agreed.stop_wanted or (due and step < self.steps_per_epoch):
            self.save(epoch, step)
        if agreed.stop_wanted:
            path = self.finish()
            where = f"at epoch {epoch + 1} step {step}"
            raise self.stop.stopped(f"{where}: saved {path}; {GO_ON}", saved=True)

    def save(self, epoch: int, step: int) -> None:
        """Hand a whole state to the writer. Collective; returns when it is copied."""
        state = {
            **self.contents(),
            "random": self.world.gather(random_state(self.world.device)),
            "position": dataclasses.asdict(Position(epoch, step)),
            "global_step": epoch * self.steps_per_epoch + step,
            "config": dataclasses.asdict(self.config),
            "world_size": self.world.size,
        }
        if self.keeper is not None:
            self.keeper.save(state, state["global_step"])

    def finish(self) -> Path:
        """Wait for the writer; the newest state. Collective.

        Raises `TrainingStopped` where a write failed.
        """
        if self.keeper is not None:
            self.keeper.wait()
        problem, path = self.world.broadcast(
            (self.keeper.problem, self.keeper.last_good) if self.keeper else None
        )
        if problem:
            raise TrainingStopped(f"{problem}; {_last(path)}")
        return path

    def last_save(self) -> str:
        if self.keeper is not None:
            self.keeper.wait()
        return _last(self.world.broadcast(self.keeper.last_good if self.keeper else None))

    def on_main(self, act: Callable[[], None]) -> None:
        """Let rank 0 write something. Raises `TrainingStopped` on all ranks where that fails."""
        problem: str | None = None
        if self.world.is_main:
            try:
                act()
            except OSError as error:
                problem = str(error)
        problem = self.world.broadcast(problem)
        if problem:
            raise TrainingStopped(f"{problem}; {self.last_save()}")

    def close(self) -> None:
        """Let the writer end, whatever ends the run."""
        if self.keeper is not None:
            self.keeper.wait()


def _last(path: Path | None) -> str:
    return f"the last good state is {path}" if path else "no state was saved before"
