"""Meter: the speed of training, the time it waits for data, and the peak memory.

Units: clips, seconds, bytes.
"""

from __future__ import annotations

import resource
import sys
import time

import torch


class Meter:
    """Speed and waiting since the last `restart`; memory since the process began.

    Call `data_ready()` when the loader has delivered a batch and `step_done(clips)` after the step. On a
    GPU the loop runs ahead of the device, so the time of a single step is not meaningful. Read the
    figures after the loop has waited for the device, as it does to report losses.
    """

    def __init__(self, *, ranks: int = 1, device: torch.device | None = None) -> None:
        self.ranks = ranks
        self.device = device or torch.device("cpu")
        self.restart()

    def restart(self) -> None:
        """Start a new measurement now."""
        self._started = self._idle_since = time.perf_counter()
        self._waited = 0.0
        self._clips = 0

    def data_ready(self) -> None:
        """A batch has arrived: the time since the last step or batch was spent waiting for the loader."""
        now = time.perf_counter()
        self._waited += now - self._idle_since
        self._idle_since = now

    def step_done(self, clips: int) -> None:
        """A step with `clips` clips of this rank has ended. Every rank has equally many."""
        self._clips += clips
        self._idle_since = time.perf_counter()

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
        """Share of the time, 0 to 1, that the loop waited for data."""
        return min(self._waited / self.seconds, 1.0)

    @property
    def memory_bytes(self) -> int:
        """Peak memory of the GPU's tensors; on a CPU, peak resident memory of the process."""
        if self.device.type == "cpu":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024  # elsewhere in KiB
        return torch.cuda.max_memory_allocated(self.device)
