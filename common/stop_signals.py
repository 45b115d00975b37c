"""The signals that ask a program to stop. Importing this file loads no library."""

from __future__ import annotations

import signal

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def signals_to_handle() -> list[signal.Signals]:
    """Those of `SIGNALS` that this program is to handle: under nohup SIGHUP is ignored, and it goes on."""
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    return [number for number in SIGNALS if number not in ignored]
