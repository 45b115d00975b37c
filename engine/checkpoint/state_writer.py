"""Writing training states: a thread of rank 0 writes them, and the hooks of the training loop say when."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from common.errors import FileError
from engine.checkpoint.random_state import random_state
from engine.checkpoint.resume import Position
from engine.checkpoint.states import list_states, state_path, step_of, write_state
from engine.config import Config
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.process.errors import TrainingStopped
from engine.process.signals import StopRequest
from engine.process.step_status import StepHooks, StepStatus

GO_ON = "go on with the same command and --resume auto"


class StateWriter:
    """The states of one run. Only rank 0 has one.

    At most one write is under way: the next `save` waits for it. A write that failed is told by `problem`,
    and the states before it stay. `keep` states stay, and those of `protected` steps. `own` are the files
    that this run goes on from: others in the folder are of another run, and go at the first save.
    """

    def __init__(self, folder: Path, *, keep: int, own: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.keep = keep
        self.protected: set[int] = set()
        self.problem: str | None = None
        self.last_good: Path | None = max(own, key=step_of, default=None)
        self._own = set(own)
        self._writer: threading.Thread | None = None

    def save(self, state: dict[str, Any], step: int) -> None:
        """Copy `state` and begin to write it. The caller may change its tensors when this returns."""
        self.wait()
        if self.problem:
            return
        path = state_path(self.folder, step)
        copied = copy_to_cpu(state)
        self._writer = threading.Thread(target=self._write, args=(copied, path), name="training state")
        self._writer.start()

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, state: dict[str, Any], path: Path) -> None:
        try:
            write_state(state, path)
            self.last_good = path
            self._own.add(path)
            self._remove_old()
        except Exception as error:  # told to the training loop, which ends the run on all ranks
            named = isinstance(error, FileError)
            self.problem = str(error) if named else f"{path}: cannot be written ({error})"

    def _remove_old(self) -> None:
        newest = sorted(self._own, key=step_of, reverse=True)[: self.keep]
        for path in list_states(self.folder):
            if path not in newest and not (path in self._own and step_of(path) in self.protected):
                path.unlink(missing_ok=True)
                self._own.discard(path)


def copy_to_cpu(value: Any) -> Any:
    """`value` with memory of its own for every tensor, on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: copy_to_cpu(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copy_to_cpu(item) for item in value]
    return value


class SavingHooks(StepHooks):
    """Saves every --save_steps, at ends of epochs and before a stop.

    `contents` gives the parts of a state that belong to model, optimiser and run; it is called on all ranks,
    since sharded ones gather. Only rank 0 has a `writer`.
    """

    def __init__(
        self,
        config: Config,
        *,
        world: World,
        log: RunLog,
        stop: StopRequest,
        writer: StateWriter | None,
        contents: Callable[[], dict[str, Any]],
        steps_per_epoch: int,
    ) -> None:
        assert (writer is not None) == world.is_main
        self.config = config
        self.world = world
        self.log = log
        self.stop = stop
        self.writer = writer
        self.contents = contents
        self.steps_per_epoch = steps_per_epoch

    def stop_wanted(self) -> bool:
        return self.stop.wanted

    def save_failed(self) -> bool:
        return self.writer is not None and self.writer.problem is not None

    def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
        """Save where it is time to. Raises `TrainingStopped` after a failed write, `StoppedBySignal` when a
        rank got a signal and all is saved."""
        if status.save_failed:
            self.finish()
        every = self.config.save_steps
        due = every > 0 and (epoch * self.steps_per_epoch + step) % every == 0
        # The end of an epoch is saved anyway.
        if status.stop_wanted or (due and step < self.steps_per_epoch):
            self.save(epoch, step)
        if status.stop_wanted:
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
        if self.writer is not None:
            self.writer.save(state, state["global_step"])

    def finish(self) -> Path:
        """Wait for the writer; the newest state. Collective.

        Raises `TrainingStopped` where a write failed.
        """
        if self.writer is not None:
            self.writer.wait()
        problem, path = self.world.broadcast(
            (self.writer.problem, self.writer.last_good) if self.writer else None
        )
        if problem:
            raise TrainingStopped(f"{problem}; {_last(path)}")
        return path

    def last_save(self) -> str:
        if self.writer is not None:
            self.writer.wait()
        return _last(self.world.broadcast(self.writer.last_good if self.writer else None))

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
        if self.writer is not None:
            self.writer.wait()


def _last(path: Path | None) -> str:
    return f"the last good state is {path}" if path else "no state was saved before"
