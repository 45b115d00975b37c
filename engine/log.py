"""What a run says: log.txt, the console, progress bars and TensorBoard. Only rank 0 speaks."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class RunLog:
    """The voice of one run; on ranks other than 0 all methods do nothing."""

    def __init__(self, output_dir: Path, *, active: bool, logdir: str | None = None) -> None:
        self.active = active
        self.output_dir = output_dir
        self.interactive = active and sys.stderr.isatty()
        self._writer = _summary_writer(logdir) if active and logdir else None
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

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Scalars by name, to TensorBoard where `--logdir` asks for it."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

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
        if self._writer is not None:
            self._writer.close()
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


def _summary_writer(logdir: str) -> Any:
    """Raises `ValueError` where the folder cannot be written."""
    # Imported where it is asked for: TensorBoard takes a second to import.
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(logdir)
    except OSError as error:
        raise ValueError(f"--logdir {logdir}: cannot be written ({error.strerror})") from None
