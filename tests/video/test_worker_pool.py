"""The pool of workers: no task can crash it, hang it, or lose the result of another task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from video.worker_pool import Fault, Output, WorkerPool

ROOT = Path(__file__).resolve().parents[2]


def work(task: str) -> Output:
    kind, _, rest = task.partition(" ")
    if kind == "die":
        os.kill(os.getpid(), int(rest))
    if kind == "exit":
        os._exit(int(rest))
    if kind == "hang":
        while True:
            time.sleep(0.05)
    if kind == "raise":
        raise KeyError("no such thing")
    if kind == "once" and not Path(rest).exists():
        Path(rest).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "resize":  # hangs in a child forked after OpenCV has started threads
        cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (500, 500))
    return task, [task.encode() * 100_000, b"", b"end"]


def outcomes(
    tasks: list[str], *, timeout: float = 20, workers: int = 2, method: str = ""
) -> dict[str, object]:
    context = multiprocessing.get_context(method) if method else None
    with WorkerPool(work, workers=workers, timeout=timeout, context=context) as pool:
        return dict(pool.run(tasks))


def reason(outcome: object) -> str:
    return outcome.reason if isinstance(outcome, Fault) else "done"


def test_results_come_back_with_their_tasks() -> None:
    tasks = [f"task {number}" for number in range(20)]
    found = outcomes(tasks)
    assert found == {task: (task, [task.encode() * 100_000, b"", b"end"]) for task in tasks}


def test_a_fault_costs_its_own_task_alone(tmp_path: Path) -> None:
    once = f"once {tmp_path / 'flag'}"
    tasks = ["a", "die 11", "b", "hang", "exit 3", "c", once, "raise", "die 9", "d", "e"]
    found: Any = outcomes(tasks, timeout=1)
    assert [task for task in tasks if reason(found[task]) == "done"] == ["a", "b", "c", once, "d", "e"]
    assert reason(found["hang"]) == "timeout" and "1 s" in found["hang"].message
    assert reason(found["die 11"]) == reason(found["die 9"]) == reason(found["exit 3"]) == "crashed"
    assert "SIGSEGV" in found["die 11"].message
    assert reason(found["raise"]) == "error"
    assert "no such thing" in found["raise"].message


def test_a_worker_killed_from_outside_is_replaced() -> None:
    """SIGKILL to a busy worker (FR-09): all tasks finish, and soon."""
    started = time.monotonic()
    with WorkerPool(work, workers=4, timeout=60) as pool:
        found = {}
        for number, (task, outcome) in enumerate(pool.run([f"task {i}" for i in range(40)])):
            found[task] = reason(outcome)
            if number == 2:
                os.kill(pool.process_ids[1], signal.SIGKILL)
    assert set(found.values()) == {"done"} and len(found) == 40
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_all_start_methods_work(method: str) -> None:
    found = outcomes(["a", "die 9", "b"], method=method)
    assert [reason(found[task]) for task in ("a", "die 9", "b")] == ["done", "crashed", "done"]


def test_opencv_threads_in_the_parent_do_no_harm() -> None:
    """OpenCV's threads would block a forked child (X-03): workers are never forked from this process."""
    cv2.resize(np.zeros((4000, 4000, 3), np.uint8), (1000, 1000))
    assert {reason(outcome) for outcome in outcomes(["resize 1", "resize 2"]).values()} == {"done"}


def test_a_pool_can_be_stopped() -> None:
    seen: list[str] = []
    with WorkerPool(work, workers=2, timeout=60) as pool:
        for task, _ in pool.run([f"t {i}" for i in range(1000)], stop=lambda: len(seen) >= 5):
            seen.append(task)
    assert 5 <= len(seen) <= 7


def test_workers_end_with_their_parent() -> None:
    """A parent that is killed leaves no process behind, not even one that hangs."""
    script = (
        "import sys\nfrom tests.video.test_worker_pool import *\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(work, workers=2, timeout=600) as pool:\n"
        "        run = pool.run(['a', 'hang', 'hang'])\n"
        "        next(run); print(*pool.process_ids, flush=True); next(run)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers and not any(_runs(pid) for pid in workers)


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
