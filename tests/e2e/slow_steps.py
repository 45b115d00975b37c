"""A program whose training steps take longer, so that a test can act between two of them.

Usage: python -m tests.e2e.slow_steps SCRIPT FLAGS... HMMC_TEST_PAUSE_S is the time added to each step. A job
that Slurm starts again is not slowed down.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from typing import Any

from engine.training.trainer import Trainer

pause_s = 0.0 if os.environ.get("SLURM_RESTART_COUNT") else float(os.environ["HMMC_TEST_PAUSE_S"])
step = Trainer._optimiser_step


def slow_step(*args: Any, **kwargs: Any) -> Any:
    end = time.monotonic() + pause_s
    while time.monotonic() < end:
        time.sleep(0.01)
    return step(*args, **kwargs)


Trainer._optimiser_step = slow_step  # type: ignore[method-assign]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
