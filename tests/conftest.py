"""Before anything else is imported: one thread a process, here and in what the tests start.

The tensors of tests are small: further threads only wait, and while they wait they take the time of others.
"""

import os
import signal

import pytest

from tests.processes import schedule_normally

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

# A shell starts background jobs with Ctrl-C ignored, and what the tests start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def normal_scheduling() -> None:
    schedule_normally()
