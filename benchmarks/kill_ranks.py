"""Stories of several ranks for `kill_training.py`: a dead rank, and another world size."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.kill_setup import FINETUNE, difference, distance, resume_step, steps_recorded

if TYPE_CHECKING:
    from benchmarks.kill_training import Outcome, Run, Stories

ROOT = Path(__file__).resolve().parents[1]
SLOW = ("--num_thread_reader", "0")
LIMIT_S = 300.0


def stories(toy: Stories) -> Iterator[Outcome]:
    whole = toy.folder / "two ranks"
    for run in _two_ranks(toy, whole):
        assert run.exit_code() == 0, toy.said(whole)
    yield _dead_rank(toy, whole)
    yield from _under_torchrun(toy, whole)
    yield _other_world(toy)


def _two_ranks(toy: Stories, out: Path, *flags: str) -> list[Run]:
    """Two forked ranks that meet by the environment, without a launcher."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def as_rank(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}

    return [
        toy.start(out, *SLOW, *flags, fault=lambda rank=rank: as_rank(rank), job=FINETUNE)  # type: ignore[misc]
        for rank in (0, 1)
    ]


def _dead_rank(toy: Stories, whole: Path) -> Outcome:
    from benchmarks.kill_training import Outcome

    out = toy.folder / "dead rank"
    ranks = _two_ranks(toy, out)
    assert ranks[0].wait_for("step", 4)
    begin = time.monotonic()
    os.kill(ranks[1].pid, signal.SIGKILL)
    code = ranks[0].exit_code()
    seconds = time.monotonic() - begin
    ranks[1].exit_code()
    redone = steps_recorded(out) - resume_step(out)
    said = toy.said(out).partition(": ")[2]
    again = [run.exit_code() for run in _two_ranks(toy, out, "--resume", "auto")]
    equal = difference(out, whole) if again == [0, 0] else f"ended with {again}"
    happened = f"the other rank ended after {seconds:.1f} s with exit code {code}, {said}"
    return Outcome("kill -9 of one of two ranks (gloo, no launcher)", happened, f"{redone} steps", equal)


def _under_torchrun(toy: Stories, whole: Path) -> Iterator[Outcome]:
    from benchmarks.kill_training import Outcome

    for restarts in (0, 1):
        out = toy.folder / f"torchrun {restarts}"
        out.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += ["--max-restarts", str(restarts), str(ROOT / "main_task_retrieval.py")]
        command += toy.toy.argv(out, *SLOW, "--resume", "auto", job=FINETUNE)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with open(out / "stderr.txt", "wb") as errors:
            launcher = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            _wait_for_steps(out, 4)
            begin = time.monotonic()
            saved = resume_step(out)
            os.kill(_children(launcher.pid)[-1], signal.SIGKILL)
            code = launcher.wait(timeout=LIMIT_S)
        finally:
            launcher.kill()
        seconds = time.monotonic() - begin
        happened = f"torchrun ended the job after {seconds:.1f} s with exit code {code}"
        equal = "-"
        if restarts:
            through = "and went through" if code == 0 else "and did NOT go through"
            happened = f"restarted by itself {through}, exit code {code}"
            equal = difference(out, whole)
        name = f"kill -9 of one of two ranks, torchrun --max-restarts {restarts}"
        yield Outcome(name, happened, f"what followed step {saved}", equal)


def _wait_for_steps(out: Path, count: int) -> None:
    end = time.monotonic() + LIMIT_S
    while not (out / "steps.jsonl").exists() or steps_recorded(out) < count:
        assert time.monotonic() < end, (out / "stderr.txt").read_text(encoding="utf-8")
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="utf-8").split()
    ]


def _other_world(toy: Stories) -> Outcome:
    from benchmarks.kill_training import Outcome

    whole, out = toy.folder / "one rank", toy.folder / "one then two"
    run = toy.start(whole, *SLOW, job=FINETUNE)
    assert run.exit_code() == 0, toy.said(whole)
    run = toy.start(out, *SLOW, job=FINETUNE)
    assert run.wait_for("step", 12)
    os.kill(run.pid, signal.SIGTERM)
    assert run.exit_code() == 0
    codes = [run.exit_code() for run in _two_ranks(toy, out, "--resume", "auto")]
    assert codes == [0, 0], toy.said(out)
    apart, always_two = distance(out, whole), distance(toy.folder / "two ranks", whole)
    equal = f"weights within {apart:.0e} of one rank's; those of two ranks throughout: {always_two:.0e}"
    return Outcome(
        "stopped by SIGTERM on one rank, gone on with two", "says what is not exact", "0 steps", equal
    )
