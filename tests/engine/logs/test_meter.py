"""The meter's arithmetic, on a clock that the tests set."""

from __future__ import annotations

from typing import ClassVar

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


class Event:
    """A moment on a GPU's stream; `at` is when the GPU gets there, None if it has not yet."""

    moments: ClassVar[list[Event]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None
        self.moments.append(self)

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.at is not None

    def elapsed_time(self, end: Event) -> float:
        assert self.at is not None and end.at is not None
        return 1000 * (end.at - self.at)


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    Event.moments = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return Event.moments


def test_on_a_gpu_only_time_in_which_it_has_nothing_to_do_is_waiting(
    clock: Clock, moments: list[Event]
) -> None:
    """The loop gives the GPU 8 s of work in 1 s, then waits for data: 4 s, then 9 s."""
    meter = Meter(device=torch.device("cuda", 0))
    moments[0].at = 100.0
    step(meter, clock, wait=0, work=1, clips=8)  # the GPU works from 100 to 108
    step(meter, clock, wait=4, work=1, clips=8)  # from 108 to 116
    step(meter, clock, wait=9, work=1, clips=8)  # from 116, without a pause
    clock.now = 120.0
    moments[1].at, moments[2].at, moments[3].at, moments[4].at = 100.0, 108.0, 108.0, 116.0
    assert meter.waiting == 0.0, "the last two moments are not known yet"
    moments[5].at = 118.5
    assert meter.waiting == 2.5 / 20, "of the 9 s the GPU was idle in 2.5"
    step(meter, clock, wait=1, work=1, clips=8)  # the loop itself waited for 5 s
    moments[6].at, moments[7].at = 119.0, 126.0
    assert meter.waiting == (2.5 + 5) / 22, "the GPU was idle longer, but not for want of data"


def test_memory_of_a_gpu(moments: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 45)
    assert Meter(device=torch.device("cuda", 0)).memory_bytes == 45
