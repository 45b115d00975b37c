"""OUTPUT_DIR of a run: locked by a training, refused where it holds another one, and its settings files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError, file_errors
from common.locks import FileLock, LockedError
from engine.checkpoint.files import list_checkpoints
from engine.checkpoint.states import list_states, remove_leftovers
from engine.config import Config
from engine.distributed.world import World
from engine.logs.metrics_jsonl import is_of_training, read_results
from engine.saved_settings import EVALUATION_SETTINGS_FILE, SETTINGS_FILE

LOCK_FILE = "training.lock"
_SHOWN = 3  # names in a message


class OutputFolder:
    """The output folder of one run, on rank 0.

    The constructor makes the folder. For a training it also locks the folder until `release`. It raises
    `UserError` if another training runs in it, or if it holds a training that this run would replace:
    --resume continues that one, and --overwrite deletes it.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.path = Path(config.output_dir)
        with file_errors(f"--output_dir {self.path}", "cannot be written"):
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked() if config.is_training else None
        try:
            if config.is_training:
                self._refuse_used()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let another training use the folder. A second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def start_training(self, *, resumed: bool) -> str | None:
        """Delete the earlier training (--overwrite) and write the settings. Returns a message for the log.

        Called when everything is checked, so that a run that is refused changes nothing.
        """
        message = None
        if self.config.overwrite and (files := training_files(self.path)):
            for path in files:
                with file_errors(path, "cannot be deleted"):
                    path.unlink()
            message = f"--overwrite: deleted the earlier training ({_named(files)})"
        if not resumed:
            with file_errors(self.path / "best.json", "cannot be deleted"):
                (self.path / "best.json").unlink(missing_ok=True)
        remove_leftovers(self.path)
        self.config.save(self.path / SETTINGS_FILE)
        return message

    def _locked(self) -> FileLock:
        try:
            return FileLock(self.path / LOCK_FILE, holder=f"{os.getpid()} on {socket.gethostname()}")
        except LockedError as error:
            raise UserError(
                f"--output_dir {self.path}: another training writes to it (process {error.holder}); wait "
                "until it ends, or give another folder"
            ) from None

    def _refuse_used(self) -> None:
        files = training_files(self.path)
        if not files or self._resumes_from_here():
            return
        holds = f"holds a training ({_named(files)})"
        if self.config.overwrite:
            model = self.config.initial_model
            if model is not None and model.resolve() in [path.resolve() for path in files]:
                raise UserError(f"--overwrite: would delete --init_model {model}; give another --output_dir")
            return
        if self.config.resume == "auto":
            raise UserError(
                f"--output_dir {self.path}: {holds} but no training state to resume from; give "
                "--overwrite in place of --resume to delete it and start anew, or another folder"
            )
        raise UserError(
            f"--output_dir {self.path}: {holds}; --resume auto continues it, --overwrite deletes it and "
            "starts anew, or give another folder"
        )

    def _resumes_from_here(self) -> bool:
        """Whether --resume continues what is in this folder. A run that saved nothing starts again."""
        if self.config.resume is None:
            return False
        if self.config.resume == "auto":
            return bool(list_states(self.path)) or not list_checkpoints(self.path, numbered=True)
        state = Path(self.config.resume).expanduser().resolve()
        # Without such a file, the search for a state says so.
        return not state.exists() or self.path.resolve() in (state, state.parent)


def training_files(folder: Path) -> list[Path]:
    """What a training wrote into `folder`: states, checkpoints, losses and results. Logs do not count."""
    files = [*list_states(folder), *list_checkpoints(folder, numbered=True)]
    steps, metrics = folder / "steps.jsonl", folder / "metrics.jsonl"
    if steps.is_file() and steps.stat().st_size:
        files.append(steps)
    if any(map(is_of_training, read_results(metrics))):
        files.append(metrics)
    return files


def save_evaluation_settings(config: Config, world: World) -> None:
    """Write the settings of an evaluation. Those of the training in the same folder stay. Collective."""
    on_main(world, lambda: config.save(Path(config.output_dir) / EVALUATION_SETTINGS_FILE))


def on_main(world: World, act: Callable[[], object]) -> None:
    """Call `act` on rank 0. A `UserError` of it is raised on all ranks, so that none waits for rank 0."""
    problem: str | None = None
    if world.is_main:
        try:
            act()
        except UserError as error:
            problem = str(error)
    problem = world.broadcast(problem)
    if problem:
        raise UserError(problem)


def _named(files: list[Path]) -> str:
    """The first names, for a message."""
    names = [path.name for path in files]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
