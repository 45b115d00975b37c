"""Log scalars to TensorBoard and to Weights & Biases, one class each."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from common.atomic_files import write_text
from common.errors import UserError, file_errors

WANDB_PROJECT = "hmmc"  # where WANDB_PROJECT is not set


class ScalarWriter(Protocol):
    def write(self, values: Mapping[str, float], *, step: int, axis: str) -> None:
        """Log the scalars by name. `step` counts `axis`: "step" (optimiser steps) or "epoch"."""

    def truncate(self, step: int) -> None:
        """The run resumes after optimiser step `step`: scalars of later steps are no longer valid."""

    def close(self, *, failed: bool) -> None:
        """`failed`: the run ends with an error."""


class TensorBoardWriter:
    """Event files of one run in the folder LOGDIR/NAME, where NAME is that of the output folder.

    The folder is the run's own: where another run has NAME, this one takes NAME-2, NAME-3, ... `resume`
    continues in the run's newest folder, if it has one. Raises `FileError` where LOGDIR cannot be written.
    """

    def __init__(self, logdir: str, *, output_dir: Path, resume: bool) -> None:
        self.logdir = Path(logdir)
        self._output_dir = output_dir.resolve()
        self._resume = resume
        self._folder: Path | None = None  # chosen with the first value: a run that is refused leaves none
        self._events: Any = None
        with self._errors():
            self.logdir.mkdir(parents=True, exist_ok=True)

    def write(self, values: Mapping[str, float], *, step: int, axis: str) -> None:
        if self._events is None:
            self._events = self._open()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def truncate(self, step: int) -> None:
        # TensorBoard then hides the points of older files from this step on. Points whose axis is the epoch
        # stay: a run has fewer epochs than optimiser steps.
        self.close(failed=False)
        self._events = self._open(purge_step=step + 1)

    def close(self, *, failed: bool) -> None:
        if self._events is not None:
            self._events.close()

    def _open(self, purge_step: int | None = None) -> Any:
        # Imported here because TensorBoard takes a second to import.
        from torch.utils.tensorboard import SummaryWriter

        with self._errors():
            self._folder = self._folder or self._own_folder()
            return SummaryWriter(str(self._folder), purge_step=purge_step)

    def _own_folder(self) -> Path:
        own: Path | None = None
        for number in itertools.count(1):
            folder = self.logdir / (self._output_dir.name + (f"-{number}" if number > 1 else ""))
            owner = folder / "output_dir.txt"
            if not folder.exists():
                if own is None:
                    folder.mkdir()
                    write_text(owner, f"{self._output_dir}\n")
                return own or folder
            if self._resume and owner.is_file():
                is_own = owner.read_text(encoding="utf-8", errors="replace") == f"{self._output_dir}\n"
                own = folder if is_own else own
        raise AssertionError("unreachable")

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return file_errors(f"--logdir {self.logdir}", "cannot be written")


class WandbWriter:
    """One run at Weights & Biases, named after OUTPUT_DIR. WANDB_MODE, WANDB_PROJECT etc. are respected.

    OUTPUT_DIR/wandb_run_id holds the id of a training (`trains`); `resume` continues that run. Weights &
    Biases cannot delete points, so points of steps after the resumed state stay and are logged a second time.
    Raises `UserError` where the package is missing or the run cannot be opened.
    """

    def __init__(self, output_dir: Path, *, config: Mapping[str, Any], resume: bool, trains: bool) -> None:
        try:
            # Imported by name because the package is not among the requirements.
            wandb = importlib.import_module("wandb")
        except ImportError:
            raise UserError("--wandb: the package is missing; pip install wandb") from None
        run_id = _run_id(output_dir / "wandb_run_id", keep=resume) if trains else secrets.token_hex(4)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or WANDB_PROJECT,
                name=output_dir.resolve().name,
                id=run_id,
                resume="allow",
                dir=str(output_dir),
                config=dict(config),
            )
        except Exception as error:  # the package has its own classes for no login, no network, a bad mode
            reason = " ".join(str(error).split())
            raise UserError(
                f"--wandb: cannot open a run ({reason}); wandb login, or WANDB_MODE=offline"
            ) from None
        self._axes: dict[str, str] = {}

    def write(self, values: Mapping[str, float], *, step: int, axis: str) -> None:
        for name in values:
            if name not in self._axes:
                # The default axis counts the calls of `log`. Each scalar needs the axis that it belongs to.
                self._run.define_metric(name, step_metric=axis)
                self._axes[name] = axis
        self._run.log({**values, axis: step})

    def truncate(self, step: int) -> None:
        pass

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _run_id(path: Path, *, keep: bool) -> str:
    """The id in `path` if `keep` is set and the file exists; else a new id, which is written there."""
    if keep and path.exists():
        with file_errors(path):
            return path.read_text(encoding="utf-8").strip()
    run_id = secrets.token_hex(4)
    write_text(path, run_id + "\n")
    return run_id
