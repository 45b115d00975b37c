"""Ranks that wait for each other: what they say, and that a signal ends the wait."""

from __future__ import annotations

import datetime
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from common.errors import UserError
from engine.distributed import meeting
from engine.distributed.environment import Place
from tests.processes import ROOT, fast_python, free_port


def test_every_start_has_a_new_prefix_in_a_store_that_keeps_old_keys() -> None:
    """torchrun's restarts share one store: no rank may use the keys of an earlier start."""
    store = dist.HashStore()
    prefixes = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as ranks:
            # Rank 0 first: it finds the ids of ended ranks before those of running ranks.
            futures = [ranks.submit(meeting.meet, Place(rank, 3), store) for rank in range(3)]
            prefixes.append({future.result(timeout=30) for future in futures})
    assert all(len(shared) == 1 for shared in prefixes)
    assert len(set().union(*prefixes)) == 3


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "NOTICE_AFTER_S", 0.0)
    monkeypatch.setattr(meeting, "TIMEOUT", datetime.timedelta(seconds=0.2))


def test_absent_ranks_are_counted_and_named(impatient: None, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(0, 12, host="node0", port=29500)
    with pytest.raises(UserError, match="rank 0 gives up waiting for 11 of 12 ranks at node0:29500"):
        meeting.meet(place, dist.HashStore())
    said = capsys.readouterr().err
    assert said.count("waiting for") == 1  # then once a minute
    assert "waiting for 11 of 12 ranks at node0:29500 (rank 1, 2, 3, 4, 5, 6, 7, 8, ...)" in said


def test_rank_0_that_is_absent_is_named(impatient: None, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with pytest.raises(UserError, match=rf"rank 1 gives up waiting for rank 0 at .*:{port} \(.*refused"):
        meeting.connect(Place(1, 2, host="127.0.0.1", port=int(port)))
    assert f"waiting for rank 0 at 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"rank 0 cannot connect to the other ranks: .*{port}") as error:
            meeting.connect(Place(0, 2, host="127.0.0.1", port=port))
    assert "\n" not in str(error.value)


ALONE = """
import sys
from engine import run
from engine.config import Config
from engine.distributed import meeting
from engine.process.signals import StopRequest

meeting.NOTICE_AFTER_S = 0.0
with StopRequest() as stop:
    run.run(Config(output_dir=sys.argv[1], do_eval=True), stop=stop)
"""


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_signal_ends_the_wait(rank: int, number: signal.Signals, tmp_path: Path) -> None:
    """The other rank never comes."""
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    process = subprocess.Popen(
        [fast_python(), "-c", ALONE, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **place, "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert re.search(r"waiting for (1 of 2 ranks|rank 0) at 127\.0\.0\.1:\d+", line), line
        start = time.monotonic()
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert time.monotonic() - start < 10
    assert f"stopped by {number.name} before anything was trained" in said
