"""Before anything else is imported: one thread a process, here and in what the tests start.

The tensors of tests are small: further threads only wait, and while they wait they take the time of others.
"""

import os
import signal

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import pytest  # noqa: E402

from common.errors import UserError  # noqa: E402
from tests import device, one_run  # noqa: E402
from tests.processes import schedule_normally  # noqa: E402

# A shell starts background jobs with Ctrl-C ignored, and what the tests start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(autouse=True)
def normal_scheduling() -> None:
    schedule_normally()
