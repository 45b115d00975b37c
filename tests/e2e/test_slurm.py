"""Jobs of scripts/slurm under a real Slurm: each ends as it should, with the weights of an uninterrupted job.

All jobs run side by side. They are slow on purpose, so that signals come in the middle of training.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from dataloaders.frame_store.reader import FrameStore
from engine.logs.steps_jsonl import read_steps
from tests.e2e.conftest import Toy
from tests.e2e.slurm_cluster import CPUS, SlurmCluster, why_not
from tests.processes import fast_python

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 400
EPOCHS = 3  # of nine steps
FLAGS = ("--dataset", "msrvtt", "--language", "english", "--epochs", str(EPOCHS))
FLAGS += ("--lr", "1e-4", "--text_lr", "1e-5", "--coef_lr", "1", "--frame_sample", "uniform")
FLAGS += ("--num_thread_reader", "1", "--select_on", "last")
TASKS = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")

pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.timeout(600)]


@dataclass
class Jobs:
    """The jobs by name; a job writes to OUTPUT/NAME, and its log is OUTPUT/NAME.log."""

    cluster: SlurmCluster
    toy: Toy
    output: Path
    numbers: dict[str, str] = field(default_factory=dict)

    def train(
        self, name: str, *flags: str, options: tuple[str, ...] = (), pause_s: float, python: str
    ) -> None:
        variables = {
            "OUTPUT_DIR": str(self.output / name),
            "DATA_DIR": str(self.toy.data),
            "PYTHON": python,
            "MASTER_ADDR": "127.0.0.1",
            "HMMC_TEST_PAUSE_S": str(pause_s),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        # Only these: PATH and HOME of this shell do not come with the job.
        exported = "--export=" + ",".join(f"{key}={value}" for key, value in variables.items())
        script = str(ROOT / "scripts" / "slurm" / "finetune.sh")
        log = f"--output={self.output}/{name}.log"
        self.submit(name, log, *TASKS, exported, *options, script, *self.toy.flags, *FLAGS, *flags)

    def submit(self, name: str, *arguments: str) -> None:
        self.numbers[name] = self.cluster.submit(f"--chdir={ROOT}", *arguments)

    def state(self, name: str) -> dict[str, str]:
        return self.cluster.job(self.numbers[name])[0]

    def log(self, name: str) -> str:
        path = self.output / f"{name}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def steps(self, name: str) -> list[int]:
        path = self.output / name / "steps.jsonl"
        return [record["step"] for record in read_steps(path)] if path.is_file() else []

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"{what}\n" + "\n".join(map(self.log, self.numbers))
            time.sleep(0.2)

    def wait_for_steps(self, *names: str) -> None:
        self.wait(lambda: all(len(self.steps(name)) >= 2 for name in names), f"no steps: {names}")

    def ended(self, name: str) -> bool:
        states = [job["JobState"] for job in self.cluster.job(self.numbers[name])]
        return {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}.issuperset(states)


def program(path: Path, command: str) -> str:
    """The path of a program that adds its arguments to `command`."""
    path.write_text(f'#!/usr/bin/env bash\n{command} "$@"\n', encoding="utf-8")
    path.chmod(0o700)
    return str(path)


@pytest.fixture(scope="module")
def jobs(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    output = tmp_path_factory.mktemp("jobs")
    python = program(output / "python", f"exec {fast_python()} -m tests.e2e.slow_steps")
    announced = program(output / "announced", f"touch '{output}'/began.$SLURM_PROCID; exec {sys.executable}")
    steady, slow = ("--partition=steady",), python
    # Sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, SlurmCluster(Path(folder)) as cluster:
        jobs = Jobs(cluster, toy, output)
        # Slurm looks at time limits every 30 s, and sends the signal up to 30 s too early.
        limit = (*steady, "--time=1", "--signal=USR1@5")
        jobs.train("time limit", options=limit, pause_s=2.2, python=slow)
        jobs.train("early", options=steady, pause_s=0, python=announced)
        jobs.train("without notice", options=("--partition=low",), pause_s=0.5, python=slow)
        jobs.train("with notice", options=("--partition=grace",), pause_s=0.5, python=slow)
        jobs.train("requeued", options=steady, pause_s=0.5, python=slow)
        jobs.train("cancelled", options=steady, pause_s=0.5, python=slow)
        jobs.wait(lambda: len(list(output.glob("began.*"))) == 2, "the early job does not begin")
        cluster.call("scancel", "--signal=USR1", jobs.numbers["early"])
        jobs.wait_for_steps("without notice", "with notice")
        jobs.submit(
            "urgent",
            "--partition=high",
            "--nodes=2",
            "--output=/dev/null",
            f"--cpus-per-task={CPUS}",
            "--wrap=true",
        )
        jobs.wait_for_steps("requeued")
        cluster.call("scontrol", "requeue", jobs.numbers["requeued"])
        jobs.wait_for_steps("cancelled")
        cluster.call("scancel", jobs.numbers["cancelled"])
        jobs.wait(lambda: int(jobs.state("early")["Restarts"]) > 0 or jobs.ended("early"), "early")
        cluster.call("scancel", jobs.numbers["early"])
        jobs.train("uninterrupted", options=steady, pause_s=0, python=slow)
        jobs.train("wrong flag", "--no_such_flag", options=steady, pause_s=0, python=slow)
        array = str(ROOT / "scripts" / "slurm" / "frame2lmdb_array.sh")
        data = toy.data / "msrvtt"
        jobs.submit(
            *(
                "array",
                "--partition=steady",
                "--array=0-1",
                "--cpus-per-task=1",
                f"--output={output}/array_%a.log",
            ),
            *(f"--export=PYTHON={sys.executable}", array, str(data / "videos"), str(output / "store")),
            *("--json_path", str(data / "videos.jsonl"), "--num_frames", "4"),
        )
        jobs.wait(lambda: all(map(jobs.ended, jobs.numbers)), "jobs have not ended")
        yield jobs


def weights(jobs: Jobs, name: str) -> dict[str, torch.Tensor]:
    return torch.load(jobs.output / name / f"pytorch_model.bin.{EPOCHS - 1}", weights_only=True)


def test_an_uninterrupted_job(jobs: Jobs) -> None:
    state = jobs.state("uninterrupted")
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "0"), jobs.log("uninterrupted")
    assert "2 ranks x 2 clips" in jobs.log("uninterrupted")


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("time limit", "SIGUSR1"),
        ("requeued", "SIGTERM"),
        ("without notice", "SIGTERM"),
        ("with notice", "SIGTERM"),
    ],
)
def test_a_job_that_is_stopped_saves_and_goes_on_from_the_queue(name: str, signal: str, jobs: Jobs) -> None:
    state, log = jobs.state(name), jobs.log(name)
    assert state["JobState"] == "COMPLETED", log
    # A slow machine may reach the time limit more than once.
    restarts = int(state["Restarts"])
    assert restarts == 1 or (restarts > 1 and name == "time limit"), log
    said = [line for line in log.splitlines() if " WARNING stopped by" in line]
    assert len(said) == restarts, log
    assert all(f"stopped by {signal} at epoch" in line and ": saved" in line for line in said)
    assert "resuming after epoch" in log and "not started again" not in log
    whole, resumed = weights(jobs, "uninterrupted"), weights(jobs, name)
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    assert jobs.steps(name) == jobs.steps("uninterrupted")


def test_a_cancelled_job_saves_and_stays_cancelled(jobs: Jobs) -> None:
    state, log = jobs.state("cancelled"), jobs.log("cancelled")
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0"), log
    assert "the job was cancelled, so it is not started again; stopped by SIGTERM" in log and ": saved" in log
    assert list((jobs.output / "cancelled").glob("training_state.*"))
    assert len(jobs.steps("cancelled")) < len(jobs.steps("uninterrupted"))


def test_a_signal_in_the_first_moment_sends_the_job_back(jobs: Jobs) -> None:
    log = jobs.log("early")
    assert jobs.state("early")["Restarts"] == "1", log
    assert "stopped by SIGUSR1 before anything was trained" in log


def test_a_wrong_flag_fails_once(jobs: Jobs) -> None:
    state, log = jobs.state("wrong flag"), jobs.log("wrong flag")
    assert (state["JobState"], state["Restarts"]) == ("FAILED", "0"), log
    assert state["ExitCode"] in ("2:0", "143:0")  # srun sends SIGTERM to the ranks that have not ended
    assert "--no_such_flag" in log and "not started again" in log


def test_an_array_writes_a_frame_store(jobs: Jobs, toy: Toy) -> None:
    states = [job["JobState"] for job in jobs.cluster.job(jobs.numbers["array"])]
    assert states == ["COMPLETED"] * 2, jobs.log("array_0") + jobs.log("array_1")
    store = FrameStore(jobs.output / "store")
    assert set(store.video_ids()) == set(FrameStore(toy.data / "msrvtt" / "msrvtt_lmdb").video_ids())
