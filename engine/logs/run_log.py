"""What a run says: log.txt, the console, progress bars, its JSON lines, TensorBoard and Weights & Biases.

Only rank 0 writes, but for the traceback of a bug.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from engine.logs.steps_jsonl import StepRecords
from engine.logs.writers import ScalarWriter, TensorBoardWriter, WandbWriter
from engine.process.errors import StoppedBySignal

T = TypeVar("T")
STOPPED = "stopped"  # the file in OUTPUT_DIR that says so
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class RunLog:
    """The voice of one run; on ranks other than 0 all methods do nothing.

    `config` holds the settings of the run by name; Weights & Biases shows them, and goes on with its earlier
    run where they say `resume`. Raises `UserError` where a place to write to cannot be had.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        active: bool,
        logdir: str | None = None,
        wandb: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.active = active
        self.output_dir = output_dir
        self.interactive = active and sys.stderr.isatty()
        self._writers: list[ScalarWriter] = []
        if active and logdir:
            self._writers.append(TensorBoardWriter(logdir))
        if active and wandb:
            settings = config or {}
            self._writers.append(
                WandbWriter(output_dir, config=settings, resume=settings.get("resume") is not None)
            )
        if active:
            (output_dir / STOPPED).unlink(missing_ok=True)
        self._steps = StepRecords(output_dir / "steps.jsonl")
        self._started = time.monotonic()
        self._seconds_before = 0.0  # of earlier starts of this run
        self._logger = logging.Logger("hmmc")
        self._handlers: list[logging.Handler] = []
        if active:
            file = logging.FileHandler(output_dir / "log.txt", encoding="utf-8")
            self._handlers = [_ConsoleHandler(), file]
        for handler in self._handlers:
            handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
            for logger in self._loggers():
                logger.addHandler(handler)

    def _loggers(self) -> list[logging.Logger]:
        """Ours, and those of the packages that warn by themselves: of unreadable clips, say."""
        return [self._logger, *(logging.getLogger(name) for name in ("dataloaders", "modules"))]

    def info(self, message: str) -> None:
        if self.active:
            self._logger.info(message)

    def warning(self, message: str) -> None:
        if self.active:
            self._logger.warning(message)

    def traceback(self, *, rank: int) -> None:
        """Append the traceback of the current exception to log.txt, from any rank."""
        with open(self.output_dir / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"rank {rank} ended by an error that is a bug:\n{traceback.format_exc()}")

    def scalars(self, values: Mapping[str, float], *, step: int, axis: str = "epoch") -> None:
        """Scalars by name to TensorBoard and Weights & Biases; `step` counts `axis`: "epoch" or "step"."""
        for writer in self._writers:
            writer.write(values, step=step, axis=axis)

    def step_record(self, record: Mapping[str, Any]) -> None:
        """Append one reported step to steps.jsonl and pass its numbers on; docs/RESULTS.md lists the keys.

        `record["step"]` counts the optimiser steps done. `seconds` is added here: how long the run has been
        going, all its starts together.
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
        """The run goes on after optimiser step `step`: drop what was recorded of later ones."""
        if not self.active:
            return
        last = self._steps.truncate(step)
        self._seconds_before = float(last["seconds"]) if last else 0.0
        for writer in self._writers:
            writer.truncate(step)

    def result(self, values: Mapping[str, Any]) -> None:
        """Append one evaluation to metrics.jsonl."""
        if self.active:
            with open(self.output_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def progress(self, items: Iterable[T], *, total: int, what: str, unit: str = "batch") -> Progress:
        """`items` with a bar on a terminal, and silently elsewhere."""
        return Progress(
            items,
            total=total,
            desc=what,
            unit=unit,
            disable=not self.interactive,
            leave=False,
            dynamic_ncols=True,
        )

    def close(self) -> None:
        """Close all. While a signal's end in good order passes through, OUTPUT_DIR/stopped is left behind.

        It says that the run ended before its work was done, so that job scripts (scripts/slurm) start it
        again. The next run in the folder removes it.
        """
        error = sys.exc_info()[1]
        in_good_order = isinstance(error, StoppedBySignal) and error.exit_code == 0
        if self.active and in_good_order:
            (self.output_dir / STOPPED).write_text(f"{error}\n", encoding="utf-8")
        for writer in self._writers:
            writer.close(failed=error is not None and not in_good_order)
        for handler in self._handlers:
            handler.close()
            for logger in self._loggers():
                logger.removeHandler(handler)


class Progress(tqdm):
    """A tqdm bar: iterate over it; `set_postfix_str` shows loss, rate and speed."""


class _ConsoleHandler(logging.Handler):
    """Writes above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
