"""Which rank gets which samples, and the DataLoader that fetches them."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2


class EpochSampler(Sampler[tuple[int, int]]):
    """Training samples of one rank: (epoch, index) pairs, the same number on every rank.

    An epoch is one permutation of 0..n-1, a function of (seed, epoch). Its slice [b*G, (b+1)*G), G =
    `batch_size` * `world_size`, is global batch b, and each rank takes a contiguous share of it: one rank
    with a batch of G sees what k ranks with G / k see together, in the same order. `drop_last` leaves out a
    last batch under G; otherwise it is filled up from the epoch's start.

    Raises ValueError when that makes no batch at all.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        rank: int,
        world_size: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        assert 0 <= rank < world_size
        if batch_size < 1:
            raise ValueError(
                f"--batch_size gives {batch_size} samples to each of {world_size} ranks, 1 is needed"
            )
        self._num_samples = num_samples
        self._rank = rank
        self._batch_size = batch_size
        self._global_batch = batch_size * world_size
        self._seed = seed
        self._shuffle = shuffle
        whole, rest = divmod(num_samples, self._global_batch)
        self.batches_per_epoch = whole if drop_last or rest == 0 else whole + 1
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"--batch_size: a global batch of {self._global_batch} is more than the {num_samples}"
                f" training examples, take {num_samples} at most"
            )
        self._epoch = 0
        self._start_batch = 0

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """Choose the epoch to iterate over, and how many of its batches to skip (resuming within it)."""
        assert epoch >= 0 and 0 <= start_batch <= self.batches_per_epoch
        self._epoch = epoch
        self._start_batch = start_batch

    def __len__(self) -> int:
        return (self.batches_per_epoch - self._start_batch) * self._batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._epoch
        order = self._order(epoch)
        for batch in range(self._start_batch, self.batches_per_epoch):
            for place in self._places(batch):
                yield epoch, int(order[place])

    def samples_of(self, epoch: int, batch: int) -> list[int]:
        """The samples that this rank asks for in a batch of an epoch, whatever is being iterated over."""
        order = self._order(epoch)
        return [int(order[place]) for place in self._places(batch)]

    def _places(self, batch: int) -> list[int]:
        begin = batch * self._global_batch + self._rank * self._batch_size
        return [place % self._num_samples for place in range(begin, begin + self._batch_size)]

    def _order(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._num_samples)
        return np.random.default_rng(np.random.SeedSequence((self._seed, epoch))).permutation(
            self._num_samples
        )


class ShardSampler(Sampler[int]):
    """Evaluation samples of one rank: a contiguous share of 0..n-1, each sample on one rank only.

    Shares differ by one sample at most; joined in the order of ranks they are 0..n-1.
    """

    def __init__(self, num_samples: int, *, rank: int, world_size: int) -> None:
        assert 0 <= rank < world_size
        self.share = range(rank * num_samples // world_size, (rank + 1) * num_samples // world_size)

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)


def build_loader(
    dataset: Dataset[dict[str, Any]],
    sampler: Sampler[Any],
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
    multiprocessing_context: str | None = None,
) -> DataLoader[dict[str, Any]]:
    """A DataLoader of `batch_size` samples a batch, in the sampler's order; a last smaller batch is kept.

    Workers stay alive from epoch to epoch and use one thread each. Logs a warning when shared memory looks
    too small for the batches that they prefetch. Raises ValueError for a batch below 1 or a negative number
    of workers.
    """
    if batch_size < 1:
        raise ValueError(f"--batch_size: {batch_size} samples a batch on each rank, 1 is needed")
    if num_workers < 0:
        raise ValueError(f"--num_thread_reader {num_workers}: must be 0 or more")
    sample_bytes = getattr(dataset, "sample_bytes", 0)
    warn_if_shared_memory_is_short(sample_bytes, batch_size=batch_size, num_workers=num_workers)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        persistent_workers=num_workers > 0,
        prefetch_factor=PREFETCH if num_workers else None,
        multiprocessing_context=multiprocessing_context if num_workers else None,
        # Each pass over a loader draws a number, of which nothing here depends. From torch's own stream it
        # would shift dropout in a run that was resumed.
        generator=torch.Generator(),
    )


def start_worker(worker: int) -> None:
    """Settings of a worker process, before its first sample."""
    # OpenCV's thread pool does not survive a fork, and the workers are the parallelism.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    _leave_signals_to_the_parent()
    # The garbage collector marks every object that it looks at, which would copy the parent's memory page by
    # page (with a million captions and four workers a third more memory).
    gc.freeze()


def _leave_signals_to_the_parent() -> None:
    """Schedulers and terminals signal whole process groups; the parent still needs batches to end well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    strikes: list[int] = []

    def on_second_sigterm(number: int, frame: FrameType | None) -> None:
        # The first may be the group's. The parent's own comes when it closes, and it repeats it.
        strikes.append(number)
        if len(strikes) > 1:
            os._exit(0)

    signal.signal(signal.SIGTERM, on_second_sigterm)


def end_workers() -> None:
    """End the loader processes of this process: at its exit Python would ask each only once, and wait."""
    for child in multiprocessing.active_children():
        while child.is_alive():
            child.terminate()
            child.join(0.1)


def warn_if_shared_memory_is_short(sample_bytes: int, *, batch_size: int, num_workers: int) -> bool:
    """Log a warning, and return True, when the batches that workers prefetch may not fit in shared memory.

    In containers it is often 64 MB, and a worker that finds it full dies of a bus error.
    """
    if num_workers == 0 or not SHARED_MEMORY.is_dir():
        return False
    needed = sample_bytes * batch_size * num_workers * PREFETCH
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed <= free:
        return False
    logger.warning(
        "workers may hold %.0f MB of batches in shared memory, %s has %.0f MB free: lower --num_thread_reader"
        " or --batch_size, or give the container more (docker run --shm-size)",
        needed / 1e6,
        SHARED_MEMORY,
        free / 1e6,
    )
    return True
