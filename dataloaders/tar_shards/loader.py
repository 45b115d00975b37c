"""The loader of one rank: hands tickets to its processes, joins their parts, counts what cannot be used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from common.errors import UserError
from dataloaders.loader import build_loader
from dataloaders.tar_shards.dataset import ShardDataset, Ticket
from dataloaders.tar_shards.reader import Fault

logger = logging.getLogger(__name__)

_MOST_SHOWN = 20  # faults of an epoch that a rank logs as they come
_LEAST_BAD = 10  # fewer bad samples never end a run


class _Tickets(Sampler[Ticket]):
    """All slots of each batch from `start` on. The loader gives ticket i to process i % processes."""

    def __init__(self, dataset: ShardDataset) -> None:
        self.epoch = self.start = 0
        self._dataset = dataset

    def __len__(self) -> int:
        return (self._dataset.order.batches_per_epoch - self.start) * self._dataset.slots

    def __iter__(self) -> Iterator[Ticket]:
        for batch in range(self.start, self._dataset.order.batches_per_epoch):
            yield from ((self.epoch, batch, slot) for slot in range(self._dataset.slots))


class ShardLoader:
    """Batches of one rank, equally many on each, as `EpochSampler` and a DataLoader give them.

    `workers` processes, as many as the dataset has slots, or 0. More than the share `most_bad` of unusable
    samples in an epoch raise `UserError`.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        *,
        workers: int,
        most_bad: float,
        pin_memory: bool = False,
    ) -> None:
        assert workers in (0, dataset.slots)
        self.dataset = dataset
        self.faults: Counter[tuple[str, str]] = Counter()  # of this epoch, by shard and reason
        self._most_bad = most_bad
        self._pin_memory = pin_memory
        self._tickets = _Tickets(dataset)
        self._parts = build_loader(dataset, self._tickets, batch_size=None, num_workers=workers)

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """Choose the epoch to iterate over; skip its first `start_batch` batches (to resume within it)."""
        assert epoch >= 0 and 0 <= start_batch <= self.dataset.order.batches_per_epoch
        self._tickets.epoch, self._tickets.start = epoch, start_batch
        self.faults.clear()

    def samples_of(self, epoch: int, batch: int) -> list[int]:
        """The numbers of the samples that this rank's part of a batch should hold."""
        return self.dataset.order.samples_of(epoch, batch, self.dataset.readers)

    def name_of(self, number: int) -> str:
        """The shard of a sample and its number in it, for messages."""
        shard, sample = self.dataset.order.place(number)
        return f"{self.dataset.order.addresses[shard]} sample {sample}"

    def __len__(self) -> int:
        return len(self._tickets) // self.dataset.slots

    def __iter__(self) -> Iterator[dict[str, Any]]:
        bad = 0
        parts: list[dict[str, Any]] = []
        for part in self._parts:
            for fault in part.pop("faults"):
                self._remember(fault)
            parts.append(part)
            if len(parts) < self.dataset.slots:
                continue
            batch = self._joined(parts)
            parts = []
            bad += int(batch["replaced"].sum())
            self._check(bad)
            yield batch

    def _joined(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if len(parts) > 1:
            batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        else:
            batch = dict(parts[0])
        return {name: value.pin_memory() for name, value in batch.items()} if self._pin_memory else batch

    def _remember(self, fault: Fault) -> None:
        if len(self.faults) < _MOST_SHOWN:
            logger.warning("shards: %s", fault)
        self.faults[fault.shard, fault.why] += fault.samples

    def _check(self, bad: int) -> None:
        samples = self.dataset.order.batches_per_epoch * sum(
            map(self.dataset.order.part, self.dataset.readers)
        )
        if bad <= max(self._most_bad * samples, _LEAST_BAD if self._most_bad else 0):
            return
        raise UserError(
            f"--shards: {bad:,} samples of this epoch cannot be used, more than {self._most_bad:.1%} of "
            f"{samples:,} (--max_bad_share); {describe_faults(self.faults)}"
        )


def describe_faults(faults: Counter[tuple[str, str]], shown: int = 5) -> str:
    """The most frequent reasons, with their shards."""
    named = [str(Fault(shard, why, count)) for (shard, why), count in faults.most_common(shown)]
    more = len(faults) - len(named)
    return " | ".join(named) + (f" | and {more:,} more" if more > 0 else "")
