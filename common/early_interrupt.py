"""Ctrl-C while a program still imports its libraries: one line and exit code 130 instead of a traceback.

Programs import this module before all others that take long, and only where they are run as scripts. From
`common.errors.run_program` on, Ctrl-C raises `KeyboardInterrupt` as usual, so that open files are closed.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode(errors="replace"))
    os._exit(EXIT_INTERRUPTED)  # nothing was opened yet; libraries that are half imported cannot shut down


def restore() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again, if it ends the process now."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell ignores Ctrl-C
    signal.signal(signal.SIGINT, _end)
