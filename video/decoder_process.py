"""A process that decodes videos for one other process, and may crash or hang without harm to it.

Its owner can be a process of a DataLoader. multiprocessing allows those no children, and their fork has no
use of native threads that were started before it: so this is a new interpreter, with PyAV and OpenCV only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from video.sample import Job, run_job, try_job
from video.worker_pool import (
    START_LIMIT,
    Fault,
    Output,
    Ready,
    describe_exit,
    serve,
    signals_blocked,
)

_ROOT = str(Path(__file__).resolve().parents[1])
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from video.decoder_process import main; main(sys.argv[2:])"
)
_CHECK_PARENT_EVERY = 1.0  # seconds


class DecoderProcess:
    """Runs jobs (video/sample.py) in a process of its own, one at a time; started with the first job.

    A job that takes more than `timeout` seconds fails, and the process is killed. A job whose process dies
    is tried once more. After either, the next job gets a new process. `close` ends it; so does the end of
    the process that made it, and the loss of this object.
    """

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def run(self, job: Job) -> Output | Fault:
        """What `run_job(job)` returns, or why there is no result."""
        return self._run(job, tries=False)

    def try_out(self, job: Job) -> Output | Fault:
        """What `try_job(job)` returns, or why there is no result."""
        return self._run(job, tries=True)

    def _run(self, job: Job, *, tries: bool) -> Output | Fault:
        if self._owner != os.getpid():  # this is a fork of the owner: it needs a process of its own
            self.close()
            self._owner = os.getpid()
        outcome = self._attempt((tries, job))
        if isinstance(outcome, Fault) and outcome.reason == "crashed":
            outcome = self._attempt((tries, job))
        return outcome

    @property
    def pid(self) -> int | None:
        """The id of the process; None if there is none now."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process. The next job would start another. A fork of the owner only forgets it."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def __del__(self) -> None:
        self.close()

    def _attempt(self, task: tuple[bool, Job]) -> Output | Fault:
        try:
            connection = self._connection or self._start()
            connection.send(task)
            if not connection.poll(self._timeout):
                self.close()
                return Fault("timeout", f"took longer than {self._timeout:g} s")
            answer = connection.recv()
            if isinstance(answer, Fault):
                return answer
            result, count = answer
            return result, [connection.recv_bytes() for _ in range(count)]
        except (EOFError, OSError):
            return self._crashed()

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        try:
            with signals_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CODE, _ROOT, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        finally:
            theirs.close()  # so that the pipe closes when the process ends
        self._connection = ours
        if not ours.poll(START_LIMIT):
            raise EOFError
        assert isinstance(ours.recv(), Ready)
        return ours

    def _crashed(self) -> Fault:
        code = None
        if self._process is not None:
            try:
                code = self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:  # it closed the pipe, but does not end
                code = None
        self.close()
        return describe_exit(code)


def main(arguments: list[str]) -> None:
    """The process: decode what its owner sends until the owner closes the pipe or ends."""
    handle, parent = map(int, arguments)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    serve(Connection(handle), _do)


def _do(task: tuple[bool, Job]) -> Output:
    tries, job = task
    return try_job(job) if tries else run_job(job)


def _end_with(parent: int) -> None:
    """End this process when its owner has ended, even if native code never returns."""
    while os.getppid() == parent:
        time.sleep(_CHECK_PARENT_EVERY)
    os._exit(1)
