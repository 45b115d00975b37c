"""Several nodes: launchers that meet at a rendezvous here, and tasks that Slurm's stand-in starts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from engine.logs.steps_jsonl import read_steps
from tests.e2e.conftest import Toy
from tests.e2e.test_command_lines import last_result, launch
from tests.processes import fast_python, free_port, torchrun
from tests.scripts.slurm_stub import SlurmStub

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 200  # such a run takes about 20
pytestmark = pytest.mark.timeout(600)
FLAGS = ("--dataset", "msrvtt", "--language", "english", "--use_temp", "--use_frame_fea")
OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OUTPUT_DIR", "NPROC", "NNODES")


@contextmanager
def started(
    commands: Sequence[Sequence[str]], logs: Path, environment: Mapping[str, str] | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The commands, side by side, each in a session of its own; at the end nothing of them is left."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    clean |= {"CUDA_VISIBLE_DEVICES": "", "PYTHON_EXEC": fast_python(), **(environment or {})}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with open(logs / f"printed{number}", "ab") as file:
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
    program = "main_task_retrieval.py --do_train"
    launch(torchrun(), program, toy, output, *FLAGS)
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
        *(fast_python(), "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--rdzv_id", "7", "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint),
        *("--local_addr", "127.0.0.1"),  # the name of this machine need not mean anything here
        *(str(ROOT / "main_task_retrieval.py"), "--do_train", "--output_dir", str(tmp_path / "out")),
        *(*toy.flags, *FLAGS),
    ]
    with started([node, node], tmp_path) as nodes:
        assert codes(nodes) == [0, 0], printed(tmp_path)
    assert "2 ranks x 2 clips" in printed(tmp_path)
    assert_equal_runs(one_node, tmp_path / "out")


def test_a_launcher_that_was_killed_joins_again(toy: Toy, tmp_path: Path, one_node: Path) -> None:
    """With the variable that docs/MULTINODE.md names: launchers of torch do not meet again without it."""
    port, output = free_port(), tmp_path / "out"
    node = [
        *(fast_python(), "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--rdzv_id", "7", "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}"),
        *("--local_addr", "127.0.0.1", "--max_restarts", "3", "--monitor_interval", "0.5"),
        *("-m", "tests.e2e.slow_steps", "main_task_retrieval.py", "--do_train", "--output_dir", str(output)),
        *(*toy.flags, *FLAGS, "--resume", "auto", "--save_steps", "1"),
    ]
    variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "HMMC_TEST_PAUSE_S": "0.3"}
    with started([node], tmp_path, variables) as first:
        wait_until(partial(listens, int(port)), tmp_path)  # the first launcher serves the others
        with started([node], tmp_path, {**variables, "HMMC_TEST_NODE": "2"}):
            wait_until(lambda: any(output.glob("training_state.*.pt")), tmp_path)
            # A launcher that is killed leaves its ranks; a machine that breaks down does not.
            for rank in ranks_that_write(output):
                if b"HMMC_TEST_NODE=2" in Path(f"/proc/{rank}/environ").read_bytes():
                    os.kill(rank, signal.SIGKILL)
        with started([node], tmp_path, variables) as again:
            assert codes([*first, *again]) == [0, 0], printed(tmp_path)
    assert "resuming after epoch 1 step" in printed(tmp_path)
    assert_equal_runs(one_node, output)
    assert steps(output) == steps(one_node)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_tasks_of_slurm_give_the_run_of_one_launcher(toy: Toy, tmp_path: Path, one_node: Path) -> None:
    # The row's own flags are the published ones; those after them win.
    stub = SlurmStub(tmp_path / "slurm", tasks=2, tasks_per_node=1)
    job = {
        **stub.environment,
        "SLURM_SUBMIT_DIR": str(ROOT),
        "MASTER_PORT": free_port(),
        "PYTHON": fast_python(),
        "OUTPUT_DIR": str(tmp_path / "out"),
        "DATA_DIR": str(toy.data),
    }
    defaults = ("--lr", "1e-4", "--text_lr", "1e-5", "--coef_lr", "1", "--frame_sample", "uniform")
    script = ["bash", str(ROOT / "scripts" / "slurm" / "finetune.sh"), *toy.flags, *FLAGS, *defaults]
    with started([script], tmp_path, job) as jobs:
        assert codes(jobs) == [0], printed(tmp_path)
    assert_equal_runs(one_node, tmp_path / "out")
    assert stub.requeued() == []


def test_slurm_signals_every_rank_and_the_job_goes_on_from_the_queue(toy: Toy, tmp_path: Path) -> None:
    stub = SlurmStub(tmp_path / "slurm", tasks=2, tasks_per_node=1)
    job = {
        **stub.environment,
        "SLURM_SUBMIT_DIR": str(ROOT),
        "MASTER_PORT": free_port(),
        "PYTHON": fast_python(),
        "OUTPUT_DIR": str(tmp_path / "out"),
        "DATA_DIR": str(toy.data),
    }
    # More epochs than can be over before the signal comes.
    flags = (*toy.flags, *FLAGS, "--epochs", "500", "--num_thread_reader", "1")
    script = ["bash", str(ROOT / "scripts" / "slurm" / "finetune.sh"), *flags]
    for start in (1, 2):
        before = len(steps(tmp_path / "out"))
        (stub.folder / "pids").unlink(missing_ok=True)
        with started([script], tmp_path, job) as jobs:
            wait_until(partial(more_steps_than, before + 1, tmp_path / "out"), tmp_path)
            # As Slurm does: all processes of the step, but not the batch script.
            for task in stub.task_pids():
                for pid in (task, *children(task)):
                    os.kill(pid, signal.SIGUSR1)
            assert codes(jobs) == [0], printed(tmp_path)
        assert "SIGUSR1" in (tmp_path / "out" / "stopped").read_text(encoding="utf-8")
        assert stub.requeued() == ["4711"] * start
    assert "resuming after epoch" in printed(tmp_path)
    assert steps(tmp_path / "out") == list(range(1, len(steps(tmp_path / "out")) + 1))


def test_torchrun_restarts_by_itself_when_a_rank_dies(toy: Toy, tmp_path: Path, one_node: Path) -> None:
    output = tmp_path / "out"
    command = [
        *(*torchrun(), "--max_restarts", "2", str(ROOT / "main_task_retrieval.py"), "--do_train"),
        *("--output_dir", str(output), *toy.flags, *FLAGS, "--resume", "auto", "--save_steps", "1"),
    ]
    with started([command], tmp_path) as (launcher,):
        wait_until(lambda: any(output.glob("training_state.*.pt")), tmp_path)
        os.kill(ranks_that_write(output)[-1], signal.SIGKILL)
        assert codes([launcher]) == [0], printed(tmp_path)
    assert "resuming after epoch 1 step" in printed(tmp_path)
    assert_equal_runs(one_node, output)
    assert steps(output) == steps(one_node)
    assert len((output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_torchrun_hands_sigusr1_on_where_it_is_told_to(toy: Toy, tmp_path: Path) -> None:
    handled = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    known = subprocess.run([*torchrun(), "--help"], capture_output=True, text=True, encoding="utf-8").stdout
    if "--signals-to-handle" not in known:
        pytest.skip("this torchrun has no --signals-to-handle")
    output = tmp_path / "out"
    command = [
        *(*torchrun(), "--signals-to-handle", handled),
        *(str(ROOT / "main_task_retrieval.py"), "--do_train", "--output_dir", str(output)),
        *(*toy.flags, *FLAGS, "--epochs", "500"),
    ]
    with started([command], tmp_path) as (launcher,):
        wait_until(lambda: len(steps(output)) > 1, tmp_path)
        launcher.send_signal(signal.SIGUSR1)
        codes([launcher])
    # What the launcher itself returns says nothing of its ranks.
    assert "SIGUSR1" in (output / "stopped").read_text(encoding="utf-8"), printed(tmp_path)
    assert any(output.glob("training_state.*.pt"))


def steps(output: Path) -> list[int]:
    path = output / "steps.jsonl"
    return [record["step"] for record in read_steps(path)] if path.is_file() else []


def more_steps_than(number: int, output: Path) -> bool:
    return len(steps(output)) > number


def wait_until(condition: Callable[[], bool], logs: Path) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, printed(logs)
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, oldest first."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return sorted(int(word) for word in listed.stdout.split())


def ranks_that_write(output: Path) -> list[int]:
    """Process ids of the ranks of a run, not of its launcher, oldest first."""
    listed = subprocess.run(["ps", "-eo", "pid=,args=", "-ww"], capture_output=True, text=True, check=True)
    lines = [line for line in listed.stdout.splitlines() if str(output) in line]
    return sorted(int(line.split()[0]) for line in lines if "torch.distributed.run" not in line)
