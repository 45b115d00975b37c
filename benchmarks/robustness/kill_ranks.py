"""Events of `kill_training.py` with several ranks: a killed rank, and another world size."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.robustness.kill_runs import Outcome, Run, Runs, last_message
from benchmarks.robustness.kill_setup import FINETUNE, difference, distance, resume_step, steps_recorded

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("--num_thread_reader", "0")
LIMIT_S = 300.0


def outcomes(runs: Runs) -> Iterator[Outcome]:
    reference = runs.folder / "two ranks"
    for run in _two_ranks(runs, reference):
        assert run.exit_code() == 0, last_message(reference)
    yield _killed_rank(runs, reference)
    yield from _under_torchrun(runs, reference)
    yield _other_world_size(runs)


def _two_ranks(runs: Runs, out: Path, *flags: str) -> list[Run]:
    """Two forked ranks that find each other by environment variables, without a launcher."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def as_rank(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}

    return [
        runs.start(out, *SLOW, *flags, fault=lambda rank=rank: as_rank(rank), job=FINETUNE)  # type: ignore[misc]
        for rank in (0, 1)
    ]


def _killed_rank(runs: Runs, reference: Path) -> Outcome:
    out = runs.folder / "dead rank"
    ranks = _two_ranks(runs, out)
    assert ranks[0].wait_for("step", 4)
    begin = time.monotonic()
    os.kill(ranks[1].pid, signal.SIGKILL)
    code = ranks[0].exit_code()
    seconds = time.monotonic() - begin
    ranks[1].exit_code()
    redone = steps_recorded(out) - resume_step(out)
    message = last_message(out).partition(": ")[2]
    again = [run.exit_code() for run in _two_ranks(runs, out, "--resume", "auto")]
    compared = difference(out, reference) if again == [0, 0] else f"ended with {again}"
    happened = f"the other rank ended after {seconds:.1f} s with exit code {code}, {message}"
    return Outcome("kill -9 of one of two ranks (gloo, no launcher)", happened, f"{redone} steps", compared)


def _under_torchrun(runs: Runs, reference: Path) -> Iterator[Outcome]:
    for restarts in (0, 1):
        out = runs.folder / f"torchrun {restarts}"
        out.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += ["--max-restarts", str(restarts), str(ROOT / "main_task_retrieval.py")]
        command += runs.toy.argv(out, *SLOW, "--resume", "auto", job=FINETUNE)
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
        compared = "-"
        if restarts:
            through = "and finished" if code == 0 else "and did NOT finish"
            happened = f"restarted by itself {through}, exit code {code}"
            compared = difference(out, reference)
        name = f"kill -9 of one of two ranks, torchrun --max-restarts {restarts}"
        yield Outcome(name, happened, f"what followed step {saved}", compared)


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


def _other_world_size(runs: Runs) -> Outcome:
    reference, out = runs.folder / "one rank", runs.folder / "one then two"
    run = runs.start(reference, *SLOW, job=FINETUNE)
    assert run.exit_code() == 0, last_message(reference)
    run = runs.start(out, *SLOW, job=FINETUNE)
    assert run.wait_for("step", 12)
    os.kill(run.pid, signal.SIGTERM)
    assert run.exit_code() == 0
    codes = [run.exit_code() for run in _two_ranks(runs, out, "--resume", "auto")]
    assert codes == [0, 0], last_message(out)
    apart, always_two = distance(out, reference), distance(runs.folder / "two ranks", reference)
    compared = f"weights within {apart:.0e} of one rank's; those of two ranks throughout: {always_two:.0e}"
    return Outcome(
        "stopped by SIGTERM on one rank, resumed on two", "says what is not exact", "0 steps", compared
    )
