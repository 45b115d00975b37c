"""World: what it reads from the environment, with one rank and with several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.distributed.world import World
from tests.processes import free_port, run_ranks

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_launcher_one_process_and_no_group() -> None:
    world = World.from_environment(None, environ={})
    assert (world.rank, world.size, world.device.type) == (0, 1, "cpu")
    assert world.is_main and not torch.distributed.is_initialized()
    assert world.broadcast("value") == "value" and world.gather("a") == ["a"]
    rows = torch.ones(2, 3)
    assert world.gather_rows(rows) is rows and world.mean(rows) is rows and world.sum(rows) is rows
    assert world.first_rank_first(lambda: 5) == 5


def variables(rank: int, size: int, port: str) -> dict[str, str]:
    """What a launcher sets."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def _on_two_ranks(rank: int, port: str) -> None:
    torch.set_num_threads(1)
    world = World.from_environment(None, environ=variables(rank, 2, port))
    assert world.broadcast({"from": rank}) == {"from": 0}
    counts = torch.tensor([1, rank, 5 * rank])
    assert world.sum(counts).tolist() == [2, 1, 5] and counts.tolist() == [1, rank, 5 * rank]
    assert world.gather(f"rank {rank}") == ["rank 0", "rank 1"]
    torch.testing.assert_close(world.mean(torch.tensor([float(rank)])), torch.tensor([0.5]))
    # Ranks have different numbers of rows, one rank has none.
    for sizes in ((1, 3), (2, 0)):
        rows = torch.full((sizes[rank], 2), float(rank))
        gathered = world.gather_rows(rows)
        assert gathered[:, 0].tolist() == [0.0] * sizes[0] + [1.0] * sizes[1]
    assert world.first_rank_first(lambda: rank) == rank
    world.close()
    world.close()


def test_two_ranks() -> None:
    run_ranks(_on_two_ranks, 2, free_port())


ENDS = """
import atexit, os
from engine.program import end_process

atexit.register(print, "exit handler")


class Global:
    def __del__(self):  # Python calls it while the interpreter shuts down
        os.write(1, b"shut down\\n")


held = Global()
print("done", end=" ")
end_process(3)
"""


@pytest.mark.parametrize(("ranks", "shuts_down"), [("1", True), ("2", False)])
def test_one_of_several_ranks_ends_with_its_exit_code_without_shutting_the_interpreter_down(
    ranks: str, shuts_down: bool
) -> None:
    environ = {**os.environ, "WORLD_SIZE": ranks}
    ended = subprocess.run(
        [sys.executable, "-c", ENDS], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 3, ended.stderr
    assert "done exit handler" in ended.stdout
    assert ("shut down" in ended.stdout) == shuts_down
