"""Meter: the speed of training, the time it waits for data, and the peak memory.

Units: clips, seconds, bytes.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class _Pause:
    """The time before a step: how long the CPU waited for data, and from when to when the GPU was idle."""

    waited: float  # seconds
    idle_since: torch.cuda.Event | None
    busy_at: torch.cuda.Event | None

    @property
    def is_known(self) -> bool:
        """Whether the GPU has got this far. Does not wait for it."""
        return self.busy_at is None or self.busy_at.query()

    @property
    def seconds(self) -> float:
        if self.idle_since is None or self.busy_at is None:
            return self.waited
        return min(self.waited, self.idle_since.elapsed_time(self.busy_at) / 1000)


class Meter:
    """Speed and waiting since the last `restart`; memory since the process began.

    Call `data_ready()` when the loader has delivered a batch and `step_done(clips)` after the step. On a GPU
    the loop runs ahead of the device, so the time of a single step is not meaningful, and a step waits for
    data only while the device, too, has nothing to do. Read the figures after the loop has waited for the
    device, as it does to report losses.
    """

    def __init__(self, *, ranks: int = 1, device: torch.device | None = None) -> None:
        self.ranks = ranks
        self.device = device or torch.device("cpu")
        self.restart()

    def restart(self) -> None:
        """Start a new measurement now."""
        self._started = self._idle_since = time.perf_counter()
        self._waited = self._step_waited = 0.0
        self._clips = 0
        self._pauses: deque[_Pause] = deque()
        self._device_idle_since = self._device_busy_at = self._moment()

    def data_ready(self) -> None:
        """A batch has arrived: the time since the last step or batch was spent waiting for the loader."""
        now = time.perf_counter()
        self._step_waited += now - self._idle_since
        self._idle_since = now
        self._device_busy_at = self._moment()

    def step_done(self, clips: int) -> None:
        """A step with `clips` clips of this rank has ended. Every rank has equally many."""
        self._clips += clips
        self._pauses.append(_Pause(self._step_waited, self._device_idle_since, self._device_busy_at))
        self._step_waited = 0.0
        self._device_idle_since = self._moment()
        self._add_known_pauses()
        self._idle_since = time.perf_counter()

    def _moment(self) -> torch.cuda.Event | None:
        """The moment at which the device has done what it was given so far."""
        if self.device.type != "cuda":
            return None
        moment = torch.cuda.Event(enable_timing=True)
        moment.record()
        return moment

    def _add_known_pauses(self) -> None:
        while self._pauses and self._pauses[0].is_known:
            self._waited += self._pauses.popleft().seconds

    @property
    def seconds(self) -> float:
        """Time since the last `restart`; never zero."""
        return max(time.perf_counter() - self._started, 1e-9)

    @property
    def clips_per_second(self) -> float:
        """Of all ranks together."""
        return self.ranks * self.clips_per_second_per_rank

    @property
    def clips_per_second_per_rank(self) -> float:
        """Of this rank."""
        return self._clips / self.seconds

    @property
    def waiting(self) -> float:
        """Share of the time, 0 to 1, that the loop, and a GPU with it, waited for data."""
        self._add_known_pauses()
        return min(self._waited / self.seconds, 1.0)

    @property
    def memory_bytes(self) -> int:
        """Peak memory of the GPU's tensors; on a CPU, peak resident memory of the process."""
        if self.device.type == "cpu":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024  # elsewhere in KiB
        return torch.cuda.max_memory_allocated(self.device)
