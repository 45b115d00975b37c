"""Real processes for tests, cheap: a stand-in for `python` that has imported torch and this project already.

`fast_python()` is the path of a program that takes a command line of Python (`script ...`, `-m module ...`,
`-c code ...`). It asks one server process, which has imported everything, to fork; the fork runs the command
with the caller's files, folder and environment. Signals reach it, its exit code comes back, and it dies with
the caller. Use it in place of `sys.executable` wherever the start of the interpreter is not what is tested.
What is read from the environment while modules are imported is as the tests have it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import one_run
from tests.device import skip_if_ranks_lack_devices

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 300  # a slow machine that does other work

CLIENT = """#!{python} -IS
import array, json, os, resource, signal, socket, sys

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps(
    dict(
        argv=sys.argv[1:],
        folder=os.getcwd(),
        environment=dict(os.environ),
        ignored=[number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN],
        file_size=resource.getrlimit(resource.RLIMIT_FSIZE),
    )
).encode()
open_files = array.array("i", [0, 1, 2])
server.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, open_files)])
server.sendall(request)
null = os.open(os.devnull, os.O_RDWR)
for number in open_files:  # readers of the output see its end when the fork ends
    os.dup2(null, number)
for number in SIGNALS:
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
code = int(server.recv(16) or -9)
if code < 0:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def fast_python() -> str:
    """The path of the program; the first call starts the server, which ends with the run of the tests."""
    return str(one_run.made_once("forks", _start_server) / "python")


def _start_server(folder: Path) -> None:
    address, program = folder / "server", folder / "python"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address)), encoding="utf-8")
    program.chmod(0o755)
    command = [sys.executable, "-m", "tests.fork_server", str(address)]
    with open(folder.parent / "alive", "rb") as alive:
        server = subprocess.Popen(command, cwd=ROOT, stdin=alive)
    _servers.append(server)
    limit = time.monotonic() + START_LIMIT_S
    while not address.exists():
        assert server.poll() is None and time.monotonic() < limit, "the server of forks did not start"
        time.sleep(0.05)


_servers: list[subprocess.Popen[bytes]] = []  # a process that runs is not collected


@contextlib.contextmanager
def ranks_of(function: Callable[..., None], size: int, *arguments: Any) -> Iterator[list[subprocess.Popen]]:
    """Processes that each call `function(rank, *arguments)`, which a module holds; killed at the end."""
    skip_if_ranks_lack_devices()
    code = "import pickle, sys; f, a = pickle.loads(bytes.fromhex(sys.argv[1])); f(int(sys.argv[2]), *a)"
    call = pickle.dumps((function, arguments)).hex()
    command = [fast_python(), "-c", code, call]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(size)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_ranks(function: Callable[..., None], size: int, *arguments: Any, limit_s: float = 240) -> None:
    """Call `function(rank, *arguments)` on `size` ranks; all must end well within the limit."""
    end = time.monotonic() + limit_s
    with ranks_of(function, size, *arguments) as processes:
        while any(process.poll() is None for process in processes):
            failed = [rank for rank, process in enumerate(processes) if process.poll()]
            assert not failed, f"ranks {failed} failed; their errors are above"
            assert time.monotonic() < end, f"the ranks did not end within {limit_s} s"
            time.sleep(0.02)
    assert [process.returncode for process in processes] == [0] * size


def schedule_normally() -> None:
    """Take real-time scheduling from this process.

    In one run next to a real Slurm the tests' process had it, and its ranks, which inherit it, kept gloo's
    threads from running: they waited for each other and took all processor time.
    """
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun(*, python: str | None = None) -> list[str]:
    """The launcher of two ranks, with a port of its own."""
    command = [python or fast_python(), "-m", "torch.distributed.run", "--nproc_per_node=2"]
    return [*command, "--master_port", free_port()]
