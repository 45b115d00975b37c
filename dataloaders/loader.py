"""Samplers, which give each rank its samples, and the DataLoader that fetches them."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import multiprocessing
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import FileError, UserError
from common.stop_signals import SIGNALS
from dataloaders.encoded_frames import collate

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
END_WAIT_S = 5.0
PREFETCH = 2
MORE_SHARED_MEMORY = (
    "lower --num_thread_reader or --batch_size, or give the container more (docker run --shm-size 8g, or "
    "--ipc=host)"
)
MORE_OPEN_FILES = "raise the limit (ulimit -n 65536), or lower --num_thread_reader"
_SHARED = ("shared memory", "</torch_")
_FULL = ("No space left on device", "Cannot allocate memory")
_OPEN_FILES = ("Too many open files", "items of ancdata")


class EpochSampler(Sampler[tuple[int, int]]):
    """Training samples of one rank: (epoch, index) pairs, equally many on every rank.

    An epoch is a permutation of 0..n-1 that depends on (seed, epoch) only. Its slice [b*G, (b+1)*G) is global
    batch b, where G = `batch_size` * `world_size`. Each rank takes a contiguous part of the global batch. So
    k ranks with a batch of G / k see the same samples in the same order as one rank with a batch of G.
    `drop_last` drops a last batch smaller than G; otherwise samples from the start of the epoch fill it up.

    Raises `UserError` if an epoch has no batch.
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
            raise UserError(
                f"--batch_size gives {batch_size} samples to each of {world_size} ranks, 1 is needed"
            )
        self._num_samples = num_samples
        self._rank = rank
        self._batch_size = batch_size
        self._global_batch = batch_size * world_size
        self._seed = seed
        self._shuffle = shuffle
        full_batches, rest = divmod(num_samples, self._global_batch)
        self.batches_per_epoch = full_batches if drop_last or rest == 0 else full_batches + 1
        if self.batches_per_epoch == 0:
            raise UserError(
                f"--batch_size: a global batch of {self._global_batch} is more than the {num_samples}"
                f" training examples; give at most {num_samples}"
            )
        self._epoch = 0
        self._start_batch = 0

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """Choose the epoch to iterate over; skip its first `start_batch` batches (to resume within it)."""
        assert epoch >= 0 and 0 <= start_batch <= self.batches_per_epoch
        self._epoch = epoch
        self._start_batch = start_batch

    def __len__(self) -> int:
        return (self.batches_per_epoch - self._start_batch) * self._batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._epoch
        order = self._order(epoch)
        for batch in range(self._start_batch, self.batches_per_epoch):
            for position in self._positions(batch):
                yield epoch, int(order[position])

    def samples_of(self, epoch: int, batch: int) -> list[int]:
        """The samples of this rank in one batch of any epoch; the current iteration is not affected."""
        order = self._order(epoch)
        return [int(order[position]) for position in self._positions(batch)]

    def _positions(self, batch: int) -> list[int]:
        begin = batch * self._global_batch + self._rank * self._batch_size
        return [position % self._num_samples for position in range(begin, begin + self._batch_size)]

    def _order(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._num_samples)
        return np.random.default_rng(np.random.SeedSequence((self._seed, epoch))).permutation(
            self._num_samples
        )


class ShardSampler(Sampler[int]):
    """Evaluation samples of one rank: a contiguous share of 0..n-1; each sample is on one rank only.

    The sizes of the shares differ by at most one. Concatenated in rank order, the shares are 0..n-1.
    """

    def __init__(self, num_samples: int, *, rank: int, world_size: int) -> None:
        assert 0 <= rank < world_size
        self.share = range(rank * num_samples // world_size, (rank + 1) * num_samples // world_size)

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)


class Loader(DataLoader[dict[str, Any]]):
    """A DataLoader whose errors about resources of its worker processes are one line with the remedy.

    Raises `FileError` if shared memory is full, at the first batch or later, or if too many files are open.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        try:
            self._probe()
            yield from super().__iter__()
        except (OSError, RuntimeError) as error:
            raise _lack_of_resources(error, has_workers=self.num_workers > 0) or error from error

    def _probe(self) -> None:
        """Make as many queues as torch will. Where that fails in torch, it also prints a traceback."""
        if self.num_workers and self._iterator is None:
            context = self.multiprocessing_context or multiprocessing
            queues = [context.Queue() for _ in range(self.num_workers + 2)]
            for queue in queues:
                queue.close()


def _lack_of_resources(error: Exception, *, has_workers: bool) -> FileError | None:
    """The `FileError` for an error of torch or multiprocessing; None if it has another cause."""
    text, number = str(error), getattr(error, "errno", None)
    from_workers = has_workers and not isinstance(error, FileError) and not getattr(error, "filename", None)
    if not from_workers:
        return None
    if number == errno.EMFILE or any(sign in text for sign in _OPEN_FILES):
        found = FileError(f"too many open files for the loader processes: {MORE_OPEN_FILES}")
        found.errno = errno.EMFILE
        return found
    # Semaphores and batches lie in shared memory. Neither error has a file name.
    if number == errno.ENOSPC or (any(s in text for s in _SHARED) and any(s in text for s in _FULL)):
        found = FileError(f"{SHARED_MEMORY}: shared memory is full: {MORE_SHARED_MEMORY}")
        found.errno = errno.ENOSPC
        return found
    return None


def build_loader(
    dataset: Dataset[dict[str, Any]],
    sampler: Sampler[Any],
    *,
    batch_size: int | None,
    num_workers: int,
    pin_memory: bool = False,
    persistent: bool = True,
    multiprocessing_context: str | None = None,
) -> Loader:
    """A DataLoader with `batch_size` samples per batch in the sampler's order; a smaller last batch is kept.
    With None each item of `dataset` is a batch and comes as it is.

    Workers use one thread each. `persistent`: they live for all passes over the loader; otherwise each pass
    starts and ends its own. Logs a warning if shared memory looks too small for
    the prefetched batches. Raises `UserError` for a batch size below 1 or a negative number of workers.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch_size: {batch_size} samples per batch on each rank, 1 is needed")
    if num_workers < 0:
        raise UserError(f"--num_thread_reader {num_workers}: must be 0 or more")
    sample_bytes = getattr(dataset, "sample_bytes", 0)
    warn_if_shared_memory_is_short(sample_bytes, batch_size=batch_size or 1, num_workers=num_workers)
    return Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate if batch_size is not None else _as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        persistent_workers=persistent and num_workers > 0,
        prefetch_factor=PREFETCH if num_workers else None,
        multiprocessing_context=multiprocessing_context if num_workers else None,
        # Each pass over a loader draws a number that we do not use. Drawn from torch's global generator, it
        # would change dropout in a resumed run.
        generator=torch.Generator(),
    )


def _as_it_is(item: Any) -> Any:
    return item


def start_worker(worker: int) -> None:
    """Set up a worker process before its first sample."""
    # OpenCV's thread pool does not survive a fork, and the workers themselves run in parallel.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    _leave_signals_to_parent()
    # The garbage collector writes to every object that it visits, which would copy the parent's memory page
    # by page (a third more memory with a million captions and four workers).
    gc.freeze()


def _leave_signals_to_parent() -> None:
    """Keep the worker alive on a signal: it goes to the whole process group, and the parent needs batches
    until it has saved. The parent ends its workers by `end_workers`."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """End the worker processes of this process. At exit Python would send SIGTERM, which they ignore.

    A process that cannot be killed, as one that waits for a broken disk, is left after `END_WAIT_S`.
    """
    children = multiprocessing.active_children()
    with _ends_of_workers_expected():
        for child in children:
            child.kill()
        end = time.monotonic() + END_WAIT_S
        for child in children:
            child.join(max(0.0, end - time.monotonic()))


@contextlib.contextmanager
def _ends_of_workers_expected() -> Iterator[None]:
    """Without torch's handler of SIGCHLD, which raises an error about a worker that was killed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def warn_if_shared_memory_is_short(sample_bytes: int, *, batch_size: int, num_workers: int) -> bool:
    """Log a warning and return True if the prefetched batches may not fit in shared memory.

    Containers often have only 64 MB, and a worker that finds it full dies of a bus error.
    """
    if num_workers == 0 or not SHARED_MEMORY.is_dir():
        return False
    needed = sample_bytes * batch_size * num_workers * PREFETCH
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed <= free:
        return False
    logger.warning(
        "workers may need %.0f MB of shared memory for batches, %s has %.0f MB free: %s",
        needed / 1e6,
        SHARED_MEMORY,
        free / 1e6,
        MORE_SHARED_MEMORY,
    )
    return True
