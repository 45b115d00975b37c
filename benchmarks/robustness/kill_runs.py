"""Training runs of `kill_training.py`: forked processes that report their phases through a pipe."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

import main_pretrain
import main_task_retrieval
from benchmarks.robustness import kill_hooks
from benchmarks.robustness.kill_setup import Toy

RUN_LIMIT_S = 240.0


@dataclass
class Outcome:
    """One line of the table."""

    event: str
    happened: str
    lost: str
    compared: str


@dataclass
class Run:
    """A forked run: its process, and the end of the pipe from which its phases are read."""

    pid: int
    pipe: int
    ended: int | None = None
    phases: list[str] = field(default_factory=list)

    def wait_for(self, phase: str, count: int) -> bool:
        """Wait until `phase` has begun `count` times; False where the run ended before."""
        while self.phases.count(phase) < count:
            letter = os.read(self.pipe, 1)
            if not letter:
                return False
            self.phases.append(kill_hooks.PHASE_OF[letter])
        return True

    def exit_code(self) -> int:
        """Wait for the end; negative for a signal. A run over the time limit is killed."""
        end = time.monotonic() + RUN_LIMIT_S
        while self.ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended = os.waitstatus_to_exitcode(status)
                os.close(self.pipe)
            elif time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            else:
                time.sleep(0.01)
        return self.ended


@dataclass
class Runs:
    """Starts runs on the toy data; `folder` is for their output folders."""

    folder: Path
    toy: Toy

    def start(
        self, out: Path, *flags: str, fault: Callable[[], None] | None = None, job: Sequence[str] = ()
    ) -> Run:
        """Fork a run that writes to `out`; `fault` is called first in the child."""
        reader, writer = os.pipe()
        out.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _run_child(out, self.toy.argv(out, *flags, job=job), writer, fault)
        os.close(writer)
        return Run(pid, reader)


def last_message(out: Path) -> str:
    """The last line that the runs in `out` wrote to stderr."""
    lines = (out / "stderr.txt").read_text(encoding="utf-8").strip().splitlines() or [""]
    return lines[-1]


def _run_child(out: Path, argv: list[str], pipe: int, fault: Callable[[], None] | None) -> NoReturn:
    """A forked run: its output goes to files in `out`, its phases to `pipe`."""
    code = 70
    try:
        for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        torch.set_num_threads(1)
        if fault is not None:
            fault()
        kill_hooks.tell_phases(pipe)
        main = main_pretrain.main if "--do_pretrain" in argv else main_task_retrieval.main
        code = main(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
