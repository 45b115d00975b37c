"""The stand-in for `python` behaves as Python does: output, codes, signals, and it dies with its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import fast_python, run_ranks, schedule_normally


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([fast_python(), *argv], capture_output=True, text=True, timeout=60, **options)


def test_arguments_environment_folder_and_streams(tmp_path: Path) -> None:
    shown = "print(sys.argv, os.environ['X'], os.getcwd(), sys.stdin.read())"
    code = f"import os, sys; {shown}; print('e', file=sys.stderr)"
    done = run("-c", code, "a b", "", env={**os.environ, "X": "猫"}, cwd=tmp_path, input="typed")
    assert done.stdout == f"['-c', 'a b', ''] 猫 {tmp_path} typed\n" and done.stderr == "e\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [("", 0), ("import sys; sys.exit(7)", 7), ("import os; os.abort()", -signal.SIGABRT)],
)
def test_exit_codes(code: str, expected: int) -> None:
    assert run("-c", code).returncode == expected


def test_scripts_modules_and_errors(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nassert __name__ == '__main__'\nsys.exit('no ' + sys.argv[1])\n", encoding="utf-8"
    )
    done = run(str(script), "way")
    assert (done.returncode, done.stderr) == (1, "no way\n")
    assert run("-m", "json.tool", "--help").stdout.startswith("usage:")
    done = run("-c", "1 / 0")
    assert done.returncode == 1 and done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_signals_reach_it_and_it_dies_with_its_caller() -> None:
    code = "import os, signal, time; print(os.getpid(), flush=True); time.sleep(100)"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [fast_python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            process.send_signal(number)
            assert process.wait(timeout=60) == -number
        end = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < end
            time.sleep(0.02)


def _fail_on(rank: int, unlucky: int) -> None:
    assert rank != unlucky
    time.sleep(60)


def test_a_rank_that_fails_ends_the_others_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match=r"ranks \[1\] failed"):
        run_ranks(_fail_on, 2, 1, limit_s=50)
    with pytest.raises(AssertionError, match="did not end within"):
        run_ranks(_fail_on, 2, 2, limit_s=1)
    with pytest.raises(
        AssertionError, match="did not end within"
    ):  # killed before they have asked for a fork
        run_ranks(_fail_on, 2, 2, limit_s=0)
    assert "AssertionError" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler") or os.geteuid() != 0, reason="needs Linux and root")
def test_real_time_scheduling_is_taken_back() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pytest.skip("real-time scheduling is not allowed here")
    schedule_normally()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
