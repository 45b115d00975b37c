"""Output streams that outlive their terminal, so that a program can save or go on when it is closed."""

from __future__ import annotations

import errno
import io
import os
from typing import Any


class _TerminalFile(io.FileIO):
    """Writes to a terminal, and to nowhere once the terminal is closed."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return super().write(data) or 0


def outliving_its_terminal(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """`stream`, or a stream in its place if it writes to a terminal."""
    if not stream.isatty():
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_TerminalFile(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )
