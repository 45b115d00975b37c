"""Before anything else is imported: one thread a process, here and in what the tests start.

The tensors of tests are small: further threads only wait, and while they wait they take the time of others.
"""

import os
import signal
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import pytest  # noqa: E402

from common.errors import UserError  # noqa: E402
from tests import device, one_run  # noqa: E402
from tests.processes import schedule_normally  # noqa: E402

# A shell starts background jobs with Ctrl-C ignored, and what the tests start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The files that take longest, or wait for others: a last one would leave the other cores without work.
LONG = (
    *("e2e/test_slurm.py", "engine/distributed/test_compiling.py", "e2e/test_resume.py"),
    *("engine/training/test_equality.py", "e2e/test_command_lines.py", "e2e/test_nodes.py"),
    *("e2e/test_ablations.py", "e2e/test_scaling.py", "e2e/test_selection.py", "e2e/test_jobs.py"),
    *("e2e/test_signals.py", "engine/training/test_low_precision.py", "modules/backbones/test_sharded.py"),
    *("tools/test_check_data.py", "tools/store/test_stops.py", "demo/test_browser.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    chosen = os.environ.get(device.VARIABLE, "cpu")
    parser.addoption("--device", default=chosen, help="of models and engine (tests/device.py)")


def pytest_configure(config: pytest.Config) -> None:
    try:
        chosen = device.choose_device(config.getoption("--device"))
    except UserError as error:
        raise pytest.UsageError(str(error)) from None
    one_run.folder()  # before the processes that share it are started
    if chosen.type != "cpu":
        config.add_cleanup(device.tensors_of_tests())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:], others = device.split_by_device(items)
    if others:
        config.hook.pytest_deselected(items=others)
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(autouse=True)
def normal_scheduling() -> None:
    schedule_normally()
