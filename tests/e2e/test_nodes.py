"""Several nodes: two launchers that meet at a rendezvous here, and tasks that Slurm's stand-in starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Toy
from tests.e2e.test_command_lines import free_port, last_result, launch
from tests.scripts.slurm_stub import SlurmStub

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 200  # such a run takes about 20
FLAGS = ("--dataset", "msrvtt", "--language", "english", "--use_temp", "--use_frame_fea")
OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OUTPUT_DIR", "NPROC", "NNODES")


@contextmanager
def started(
    commands: Sequence[Sequence[str]], logs: Path, environment: Mapping[str, str] | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The commands, side by side, each in a session of its own; at the end nothing of them is left."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    clean |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **(environment or {})}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with open(logs / f"printed{number}", "wb") as file:
                processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=clean, stdout=file, stderr=file, start_new_session=True
                    )
                )
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def codes(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    end = time.monotonic() + LIMIT_S
    return [process.wait(timeout=max(1.0, end - time.monotonic())) for process in processes]


def printed(logs: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(logs.glob("printed*")))


def weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "pytorch_model.bin.0", weights_only=True)


@pytest.fixture(scope="module")
def one_node(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks by one launcher: what two nodes must equal."""
    output = tmp_path_factory.mktemp("one") / "node"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    program = "main_task_retrieval.py --do_train"
    launch([*torchrun, "--master_port", free_port()], program, toy, output, *FLAGS)
    return output


def assert_equal_runs(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []
    figures = [{k: v for k, v in last_result(run).items() if "/" in k} for run in (one, other)]
    assert figures[0] == figures[1]


def test_two_launchers_that_meet_give_the_run_of_one(toy: Toy, tmp_path: Path, one_node: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    node = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--rdzv_id", "7", "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint),
        *("--local_addr", "127.0.0.1"),  # the name of this machine need not mean anything here
        *(str(ROOT / "main_task_retrieval.py"), "--do_train", "--output_dir", str(tmp_path / "out")),
        *(*toy.flags, *FLAGS),
    ]
    with started([node, node], tmp_path) as nodes:
        assert codes(nodes) == [0, 0], printed(tmp_path)
    assert "2 ranks x 2 clips" in printed(tmp_path)
    assert_equal_runs(one_node, tmp_path / "out")


def test_tasks_of_slurm_give_the_run_of_one_launcher(toy: Toy, tmp_path: Path, one_node: Path) -> None:
    # The row's own flags are the published ones; those after them win.
    stub = SlurmStub(tmp_path / "slurm", tasks=2, tasks_per_node=1)
    job = {
        **stub.environment,
        "SLURM_SUBMIT_DIR": str(ROOT),
        "MASTER_PORT": free_port(),
        "PYTHON": sys.executable,
        "OUTPUT_DIR": str(tmp_path / "out"),
        "DATA_DIR": str(toy.data),
    }
    defaults = ("--lr", "1e-4", "--text_lr", "1e-5", "--coef_lr", "1", "--frame_sample", "uniform")
    script = ["bash", str(ROOT / "scripts" / "slurm" / "finetune.sh"), *toy.flags, *FLAGS, *defaults]
    with started([script], tmp_path, job) as jobs:
        assert codes(jobs) == [0], printed(tmp_path)
    assert_equal_runs(one_node, tmp_path / "out")
    assert stub.requeued() == []
