"""The log of a run: log.txt, console, progress bars, JSON lines, TensorBoard and Weights & Biases.

Only rank 0 writes, except the traceback of a bug, which any rank may write.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from common.atomic_files import ESCAPED, write_text
from common.commands import NAMESPACE
from common.errors import file_error, file_errors
from engine.command_line import Remark
from engine.logs.steps_jsonl import StepRecords
from engine.logs.writers import ScalarWriter, TensorBoardWriter, WandbWriter
from engine.process.errors import StoppedBySignal

T = TypeVar("T")
STOPPED = "stopped"  # file in OUTPUT_DIR of a run that a signal stopped
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class RunLog:
    """The log of one run. On ranks other than 0 (not `active`) all methods but `traceback` do nothing.

    `config` holds the settings of the run by name. Weights & Biases shows them and continues its earlier run
    if they contain `resume`; so does TensorBoard. `trains`: the run is a training, the owner of the folder;
    an evaluation in that folder leaves the marks of the training alone.
    Raises `UserError` where a log cannot be opened, and every method that writes a
    file raises `FileError` where the file cannot be written, as on a full disk.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        active: bool,
        logdir: str | None = None,
        wandb: bool = False,
        config: Mapping[str, Any] | None = None,
        trains: bool = True,
    ) -> None:
        self.active = active
        self.output_dir = output_dir
        self.interactive = active and sys.stderr.isatty()
        self._writers: list[ScalarWriter] = []
        settings = config or {}
        resume = settings.get("resume") is not None
        if active and logdir:
            self._writers.append(TensorBoardWriter(logdir, output_dir=output_dir, resume=resume and trains))
        if active and wandb:
            self._writers.append(WandbWriter(output_dir, config=settings, resume=resume, trains=trains))
        if active and trains:
            with file_errors(output_dir / STOPPED, "cannot be deleted"):
                (output_dir / STOPPED).unlink(missing_ok=True)
        self._steps = StepRecords(output_dir / "steps.jsonl")
        self._started = time.monotonic()
        self._seconds_before = 0.0  # spent before the run was resumed
        self._logger = logging.Logger("hmmc")
        self._handlers: list[logging.Handler] = []
        if active:
            self._handlers = [_ConsoleHandler(), _LogFileHandler(output_dir / "log.txt")]
        for handler in self._handlers:
            handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
            for logger in self._loggers():
                logger.addHandler(handler)

    def _loggers(self) -> list[logging.Logger]:
        """The run's logger, and those of packages that log without a `RunLog`, for instance on unreadable
        clips."""
        return [self._logger, *(logging.getLogger(NAMESPACE + name) for name in ("dataloaders", "modules"))]

    def info(self, message: str) -> None:
        if self.active:
            self._logger.info(message)

    def warning(self, message: str) -> None:
        if self.active:
            self._logger.warning(message)

    def ended(self, reason: str) -> None:
        """Write why the run ends with an error to log.txt. The program itself prints it."""
        record = self._logger.makeRecord(self._logger.name, logging.ERROR, "", 0, reason, (), None)
        for handler in self._handlers:
            if isinstance(handler, _LogFileHandler):
                handler.handle(record)

    def remark(self, remark: Remark) -> None:
        """Log a message on the settings of the run."""
        (self.warning if remark.is_warning else self.info)(remark.text)

    def traceback(self, *, rank: int) -> None:
        """Append the traceback of the current exception, a bug, to log.txt. Works on any rank."""
        # Where the log cannot be written, the bug must still reach the console.
        with (
            contextlib.suppress(OSError),
            open(self.output_dir / "log.txt", "a", encoding="utf-8", errors=ESCAPED) as file,
        ):
            file.write(f"rank {rank} ended with a bug:\n{traceback.format_exc()}")

    def scalars(self, values: Mapping[str, float], *, step: int, axis: str = "epoch") -> None:
        """Log scalars to TensorBoard and Weights & Biases. `step` counts `axis`: "epoch" or "step"."""
        for writer in self._writers:
            writer.write(values, step=step, axis=axis)

    def step_record(self, record: Mapping[str, Any]) -> None:
        """Append one reported step to steps.jsonl and log its scalars. docs/RESULTS.md lists the keys.

        `record["step"]` counts the optimiser steps done. `seconds` is added here: the time that the run has
        taken, including the time before it was resumed.
        """
        if not self.active:
            return
        assert isinstance(record["step"], int)
        seconds = self._seconds_before + time.monotonic() - self._started
        record = {**record, "seconds": round(seconds, 3)}
        self._steps.append(record)
        values = {
            name if "/" in name else f"train/{name}": float(value)
            for name, value in record.items()
            if name != "step" and isinstance(value, int | float)
        }
        self.scalars(values, step=record["step"], axis="step")

    def truncate_steps(self, step: int) -> None:
        """The run resumes after optimiser step `step`: delete the records of later steps."""
        if not self.active:
            return
        last = self._steps.truncate(step)
        self._seconds_before = float(last["seconds"]) if last else 0.0
        for writer in self._writers:
            writer.truncate(step)

    def result(self, values: Mapping[str, Any]) -> None:
        """Append one evaluation to metrics.jsonl, and force it to disk: it may have taken hours."""
        if self.active:
            path = self.output_dir / "metrics.jsonl"
            with (
                file_errors(path, "cannot be written"),
                open(path, "a", encoding="utf-8", errors=ESCAPED) as file,
            ):
                file.write(json.dumps(values, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def progress(self, batches: Iterable[T], *, total: int, what: str) -> tqdm:
        """Iterates over `batches` with a progress bar on a terminal, and without one elsewhere."""
        return tqdm(
            batches,
            total=total,
            desc=what,
            unit="batch",
            disable=not self.interactive,
            leave=False,
            dynamic_ncols=True,
        )

    def close(self) -> None:
        """Close everything. If a signal stopped the run and all is saved, write OUTPUT_DIR/stopped.

        Job scripts (scripts/slurm) read this file and start the run again. The next run in the folder deletes
        it.
        """
        error = sys.exc_info()[1]
        stopped_and_saved = isinstance(error, StoppedBySignal) and error.exit_code == 0
        if self.active and stopped_and_saved:
            write_text(self.output_dir / STOPPED, f"{error}\n")
        for writer in self._writers:
            writer.close(failed=error is not None and not stopped_and_saved)
        for handler in self._handlers:
            for logger in self._loggers():
                logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # lines that could not be written have raised before
                handler.close()


class _LogFileHandler(logging.FileHandler):
    """Raises `FileError` where the file cannot be opened or written."""

    def __init__(self, path: Path) -> None:
        with file_errors(path, "cannot be written"):
            super().__init__(path, encoding="utf-8", errors=ESCAPED)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        if isinstance(error, OSError):
            raise file_error(self.baseFilename, "cannot be written", error) from error
        raise error


class _ConsoleHandler(logging.Handler):
    """Writes above a running progress bar and leaves the bar intact."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
