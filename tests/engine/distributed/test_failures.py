"""One rank fails, the others wait in an operation of all ranks: all end within seconds with the reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from engine.distributed import failures
from engine.distributed.world import World
from engine.process.errors import EndedRank
from tests.engine.distributed.test_world import variables
from tests.processes import free_port, ranks_of

REASON = "toy.csv: no column video_id"
WAITS = {
    "broadcast": lambda world: world.broadcast(None),
    "gather": lambda world: world.gather(None),
    "sum": lambda world: world.sum(torch.ones(1)),
    "rows": lambda world: world.gather_rows(torch.ones(2, 2)),
    "first rank first": lambda world: world.first_rank_first(lambda: None),
    # As NCCL waits: the end of another rank is not noticed.
    "for ever": lambda world: time.sleep(600),
}


def fail(rank: int, port: str, failing: int, wait: str, folder: str) -> None:
    """Rank `failing` raises, the others wait; each writes what it ended with."""
    torch.set_num_threads(1)
    os.environ["TORCHELASTIC_ERROR_FILE"] = f"{folder}/error{rank}.json"
    failures.GRACE_S = 1.0
    world = World.from_environment(None, environ=variables(rank, 3, port))
    assert world.failures is not None
    world.failures.warn = lambda text: Path(folder, f"log{rank}").write_text(text, encoding="utf-8")  # type: ignore[method-assign]
    try:
        with world.sharing_failures():
            world.broadcast(None)
            if rank == failing:
                raise UserError(REASON)
            WAITS[wait](world)
    except (UserError, EndedRank) as error:
        Path(folder, f"said{rank}").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        world.close(failed=True)


@pytest.mark.parametrize(
    ("wait", "failing"),
    [("broadcast", 0), ("gather", 1), ("sum", 2), ("rows", 0), ("first rank first", 1), ("for ever", 0)],
)
def test_all_ranks_end_with_the_reason(wait: str, failing: int, tmp_path: Path) -> None:
    with ranks_of(fail, 3, free_port(), failing, wait, str(tmp_path)) as ranks:
        codes = [rank.wait(timeout=60) for rank in ranks]
    expected = f"stopped: rank {failing} ended: {REASON}"
    for rank in range(3):
        if rank == failing:
            said = f"UserError: {REASON}"
            told = json.loads((tmp_path / f"error{rank}.json").read_text("utf-8"))
            assert told["message"]["message"] == f"rank {failing} ended: {REASON}"
        else:
            said = f"EndedRank: {expected}"
            assert not (tmp_path / f"error{rank}.json").exists()
        if wait == "for ever" and rank != failing:
            assert codes[rank] == failures.EXIT_CODE
            assert (tmp_path / f"log{rank}").read_text("utf-8") == expected
        else:
            assert (tmp_path / f"said{rank}").read_text("utf-8") == said


def wait_in_sum(rank: int, port: str, folder: str) -> None:
    torch.set_num_threads(1)
    world = World.from_environment(None, environ=variables(rank, 2, port))
    Path(folder, f"ready{rank}").touch()
    try:
        with world.sharing_failures():
            if rank == 0:
                time.sleep(600)
            world.sum(torch.ones(1))
    except EndedRank as error:
        Path(folder, "said").write_text(str(error), encoding="utf-8")


def test_a_rank_that_is_killed_gives_no_reason(tmp_path: Path) -> None:
    with ranks_of(wait_in_sum, 2, free_port(), str(tmp_path)) as ranks:
        end = time.monotonic() + 60
        while not all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < end
            time.sleep(0.02)
        ranks[0].send_signal(signal.SIGTERM)
        try:
            ranks[1].wait(timeout=30)
        except subprocess.TimeoutExpired:
            pytest.fail("the other rank did not end")
    assert (tmp_path / "said").read_text("utf-8") == failures.UNKNOWN
