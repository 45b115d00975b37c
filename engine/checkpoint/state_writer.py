"""Saving training states: when the training loop saves, and the thread of rank 0 that writes the files."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.errors import FileError, file_errors
from engine.checkpoint.random_state import random_state
from engine.checkpoint.resume import Position
from engine.checkpoint.states import list_states, state_path, step_of, write_state
from engine.config import Config
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.process.errors import TrainingStopped
from engine.process.signals import StopRequest
from engine.process.step_status import StepHooks, StepStatus

HOW_TO_RESUME = "resume with the same command and --resume auto"


class StateWriter:
    """Writes the states of one run in a thread. Only rank 0 has one.

    At most one write is under way: the next `save` waits for it. After a failed write `problem` says why, and
    earlier states stay. The newest `keep` states stay, and those of `protected` steps. `earlier` are the
    states of this run from before it was resumed. Any other state in the folder belongs to another run: the
    first save deletes it.
    """

    def __init__(self, folder: Path, *, keep: int, earlier: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.keep = keep
        self.protected: set[int] = set()
        self.problem: str | None = None
        self._states = set(earlier)  # of this run
        self.last_good: Path | None = max(self._states, key=step_of, default=None)
        self._thread: threading.Thread | None = None
        self._bug: BaseException | None = None

    def save(self, state: dict[str, Any], step: int) -> None:
        """Start to write `state`, whose tensors are on the CPU. The caller must not change it any more."""
        self.wait()
        if self.problem:
            return
        path = state_path(self.folder, step)
        self._thread = threading.Thread(target=self._write, args=(state, path), name="training state")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written. Raises what the thread raised, if that is a bug."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        bug, self._bug = self._bug, None
        if bug is not None:
            raise bug

    def _write(self, state: dict[str, Any], path: Path) -> None:
        try:
            write_state(state, path)
            self.last_good = path
            self._states.add(path)
            self._remove_old()
        except FileError as error:  # the training loop reads it and ends the run on all ranks
            self.problem = str(error)
        except BaseException as bug:  # `wait` raises it where its traceback is reported
            self._bug = bug

    def _remove_old(self) -> None:
        newest = sorted(self._states, key=step_of, reverse=True)[: self.keep]
        for path in list_states(self.folder):
            if path not in newest and not (path in self._states and step_of(path) in self.protected):
                with file_errors(path, "cannot be deleted"):
                    path.unlink(missing_ok=True)
                self._states.discard(path)


class SavingHooks(StepHooks):
    """Saves a state every --save_steps steps, at the end of an epoch and before the run stops.

    `contents` returns the parts of a state that belong to model, optimiser and results, as copies on the CPU.
    All ranks call it, because sharded weights are gathered. Only rank 0 has a `writer`.
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

    def save_due(self, epoch: int, step: int) -> bool:
        every = self.config.save_steps
        due = every > 0 and (epoch * self.steps_per_epoch + step) % every == 0
        return due and step < self.steps_per_epoch  # at the end of an epoch the run itself saves

    def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
        """Save if a save is due. Raises `TrainingStopped` after a failed write, and `StoppedBySignal` when a
        rank received a signal and everything is saved."""
        if status.save_failed:
            self.finish()
        if status.stop_wanted or self.save_due(epoch, step):
            self.save(epoch, step)
        if status.stop_wanted:
            path = self.finish()
            where = f"at epoch {epoch + 1} step {step}"
            raise self.stop.stopped(f"{where}: saved {path}; {HOW_TO_RESUME}", saved=True)

    def save(self, epoch: int, step: int) -> None:
        """Hand a full state to the writer. Collective; returns when the state is copied."""
        if self.writer is not None:
            self.writer.wait()  # before the next copy is made: there is memory for one
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
        """Wait for the writer and return the newest state. Collective.

        Raises `TrainingStopped` where a write failed.
        """
        if self.writer is not None:
            self.writer.wait()
        problem, path = self.world.broadcast(
            (self.writer.problem, self.writer.last_good) if self.writer else None
        )
        if problem:
            raise TrainingStopped(f"{problem}; {_name_last(path)}")
        return path

    def last_save(self) -> str:
        if self.writer is not None:
            self.writer.wait()
        return _name_last(self.world.broadcast(self.writer.last_good if self.writer else None))

    def on_main(self, write: Callable[[], None]) -> None:
        """Call `write` on rank 0. Raises `TrainingStopped` on all ranks where it raises `FileError`."""
        problem: str | None = None
        if self.world.is_main:
            try:
                write()
            except FileError as error:
                problem = str(error)
        problem = self.world.broadcast(problem)
        if problem:
            raise TrainingStopped(f"{problem}; {self.last_save()}")

    def close(self) -> None:
        """Wait for the writer, however the run ends."""
        if self.writer is not None:
            self.writer.wait()


def _name_last(path: Path | None) -> str:
    return f"the last good state is {path}" if path else "no state was saved"
