"""Meter: how fast training goes, how long it waits for data, and how much memory it took.

Units: clips, seconds, bytes.
"""

from __future__ import annotations

import resource
import sys
import time

import torch


class Meter:
    """Speed and waiting since the last `restart`; memory since the process began.

    `data_ready()` is called when a batch has come from the loader, `step_done(clips)` after the step. On an
    accelerator the loop runs ahead of the device, so that a single step's time means little: read the figures
    where the device has been waited for, as it is when losses are reported.
    """

    def __init__(self, *, ranks: int = 1, device: torch.device | None = None) -> None:
        self.ranks = ranks
        self.device = device or torch.device("cpu")
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch, from now."""
        self._started = self._idle_since = time.perf_counter()
        self._waited = 0.0
        self._clips_here = 0
        self._clips = 0

    def data_ready(self) -> None:
        """A batch has arrived: what has passed since the last step or batch was waiting for the loader."""
        now = time.perf_counter()
        self._waited += now - self._idle_since
        self._idle_since = now

    def step_done(self, clips: int, *, all_ranks: int | None = None) -> None:
        """A step, or one pass of an accumulated step, has ended.

        `clips`: clips of this rank in it. `all_ranks`: clips of all ranks, where shares differ; every rank is
        taken to have as many as this one otherwise.
        """
        self._clips_here += clips
        self._clips += clips * self.ranks if all_ranks is None else all_ranks
        self._idle_since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Length of the stretch so far; never zero."""
        return max(time.perf_counter() - self._started, 1e-9)

    @property
    def clips_per_second(self) -> float:
        """Of all ranks together."""
        return self._clips / self.seconds

    @property
    def clips_per_second_per_rank(self) -> float:
        """Of this rank."""
        return self._clips_here / self.seconds

    @property
    def waited_seconds(self) -> float:
        return self._waited

    @property
    def waiting(self) -> float:
        """Share of the stretch, 0 to 1, that the loop stood still for want of data."""
        return min(self._waited / self.seconds, 1.0)

    @property
    def memory_bytes(self) -> int:
        """Peak memory of the accelerator's tensors; without one, peak resident memory of the process."""
        if self.device.type == "cpu":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024  # KiB everywhere but there
        # torch.accelerator learnt to count memory after our lower bound of torch.
        counter = getattr(torch.accelerator, "max_memory_allocated", None)
        counter = counter or getattr(torch, self.device.type).max_memory_allocated
        return int(counter(self.device))
