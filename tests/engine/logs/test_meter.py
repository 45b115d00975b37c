"""The meter's arithmetic, on a clock that the tests set."""

from __future__ import annotations

import pytest
import torch

from engine.logs import meter as meter_module
from engine.logs.meter import Meter


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    return clock


def step(meter: Meter, clock: Clock, *, wait: float, work: float, clips: int) -> None:
    clock.now += wait
    meter.data_ready()
    clock.now += work
    meter.step_done(clips)


def test_speed_and_waiting(clock: Clock) -> None:
    meter = Meter(ranks=4)
    step(meter, clock, wait=1, work=3, clips=8)
    step(meter, clock, wait=2, work=2, clips=8)
    assert meter.seconds == 8
    assert meter.clips_per_second_per_rank == 2
    assert meter.clips_per_second == 8
    assert meter.waiting == 3 / 8


def test_two_batches_for_one_step_count_their_waits_once(clock: Clock) -> None:
    meter = Meter()
    clock.now += 1
    meter.data_ready()
    clock.now += 2
    meter.data_ready()
    clock.now += 1
    meter.step_done(4)
    assert meter.waiting == 3 / 4


def test_restart_forgets(clock: Clock) -> None:
    meter = Meter(ranks=2)
    step(meter, clock, wait=5, work=5, clips=100)
    meter.restart()
    step(meter, clock, wait=0, work=2, clips=4)
    assert meter.clips_per_second_per_rank == 2 and meter.clips_per_second == 4
    assert meter.waiting == 0


def test_nothing_done_is_no_error(clock: Clock) -> None:
    meter = Meter()
    assert meter.clips_per_second == 0 and meter.waiting == 0


def test_memory_is_the_peak_of_the_process() -> None:
    meter = Meter()
    before = meter.memory_bytes
    ballast = torch.ones(64 << 20, dtype=torch.uint8)  # every page touched
    grown = meter.memory_bytes
    del ballast
    assert before > 32 << 20, "more than the interpreter with torch takes: bytes, not KiB"
    assert before <= grown == meter.memory_bytes


def test_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 45)
    assert Meter(device=torch.device("cuda", 0)).memory_bytes == 45
