"""Which samples an epoch has, which reader reads them, and in which order it gives them.

An epoch is a row of samples: the shards in an order drawn by (seed, epoch), the samples of a shard in the
order of its file. Batches of G samples are filled by R readers; each takes an equal part of the row, one
stretch without gaps, and gives an equal part of each batch, in an order shuffled within `buffer` samples.

So what a batch holds depends on (seed, epoch, the sources, G, R, buffer) only: not on ranks, as long as their
number divides R, nor on the processes that read. It is computed here without reading, for any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from dataloaders.tar_shards.index import Source

Ints = NDArray[np.int64]
# Streams of random numbers that must not depend on each other.
_SHARDS, _MIX, _WITHIN = 1, 2, 3


@dataclass(frozen=True)
class Pieces:
    """The row of samples of one epoch: samples `first` <= n < `last` of shard `shard`, one after another.

    `ends`: how many samples the row has up to the end of each piece.
    """

    shard: Ints
    first: Ints
    last: Ints
    ends: Ints

    def at(self, position: int) -> tuple[int, int]:
        """(piece, number of the sample in its shard) of a position in the row."""
        piece = int(np.searchsorted(self.ends, position, side="right"))
        return piece, int(self.last[piece] - (self.ends[piece] - position))


class ShardOrder:
    """The order of all epochs; `batch_size` G samples over all ranks, `readers` R.

    Raises `UserError` if an epoch has no full batch or a batch fewer samples than there are readers.
    """

    def __init__(
        self, sources: Sequence[Source], *, seed: int, batch_size: int, readers: int, buffer: int
    ) -> None:
        self.sources = tuple(sources)
        self.seed = seed
        self.batch_size = batch_size
        self.readers = readers
        self.buffer = buffer
        self.addresses = [address for source in sources for address in source.addresses]
        self.exact = np.repeat([s.exact for s in sources], [len(s.addresses) for s in sources])
        self._sizes = np.array([size for source in sources for size in source.samples], dtype=np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._taken = [source.per_epoch for source in sources]
        self.batches_per_epoch = self.samples_per_epoch // batch_size
        if self.batches_per_epoch == 0:
            raise UserError(
                f"--batch_size {batch_size}: more than the {self.samples_per_epoch} samples of an epoch"
            )
        if readers > batch_size:
            raise UserError(f"--shard_readers {readers}: more than the {batch_size} clips of a batch")

    @property
    def samples_per_epoch(self) -> int:
        """Those that the sources give; the last ones that fill no batch are left out."""
        return sum(self._taken)

    def number(self, shard: int, sample: int) -> int:
        """The number of a sample among all samples of all sources."""
        return int(self._firsts[shard]) + sample

    def place(self, number: int) -> tuple[int, int]:
        """(shard, number in it) of a sample."""
        shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return shard, number - int(self._firsts[shard])

    def pieces(self, epoch: int) -> Pieces:
        """The row of samples of an epoch, from all sources, mixed."""
        parts = [self._slice(number, epoch) for number in range(len(self.sources))]
        shard, first, last = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        mixed = self._rng(_MIX, epoch).permutation(len(shard))
        shard, first, last = shard[mixed], first[mixed], last[mixed]
        return Pieces(shard, first, last, np.cumsum(last - first))

    def _slice(self, source: int, epoch: int) -> tuple[Ints, Ints, Ints]:
        """The pieces of one source. All its passes, one after another, are cut into epochs."""
        offset = sum(len(other.addresses) for other in self.sources[:source])
        sizes = np.array(self.sources[source].samples, dtype=np.int64)
        total = int(sizes.sum())
        begin, end = epoch * self._taken[source], (epoch + 1) * self._taken[source]
        shards, firsts, lasts = [], [], []
        for number in range(begin // total, -(-end // total)):
            order = self._rng(_SHARDS, source, number).permutation(len(sizes))
            stops = np.cumsum(sizes[order]) + number * total
            starts = stops - sizes[order]
            first, last = np.maximum(starts, begin), np.minimum(stops, end)
            kept = first < last
            shards.append(order[kept] + offset)
            firsts.append((first - starts)[kept])
            lasts.append((last - starts)[kept])
        return np.concatenate(shards), np.concatenate(firsts), np.concatenate(lasts)

    def part(self, reader: int) -> int:
        """How many samples of each batch come from a reader."""
        return self._before(reader + 1) - self._before(reader)

    def begin(self, reader: int) -> int:
        """The position in the row where the stretch of a reader begins."""
        return self.batches_per_epoch * self._before(reader)

    def _before(self, reader: int) -> int:
        return reader * self.batch_size // self.readers

    def shuffled(self, epoch: int, reader: int) -> Ints:
        """The positions of a reader's stretch, counted from its begin, in the order in which it gives them.

        Each sample moves by less than `buffer` positions, so a reader holds fewer than `buffer` samples.
        """
        return _shuffled(
            self.seed, epoch, reader, self.batches_per_epoch * self.part(reader), max(self.buffer, 1)
        )

    def samples_of(self, epoch: int, batch: int, readers: range) -> list[int]:
        """The numbers of the samples that `readers` give to a batch."""
        pieces = self.pieces(epoch)
        numbers = []
        for reader in readers:
            part = self.part(reader)
            for place in self.shuffled(epoch, reader)[batch * part : (batch + 1) * part]:
                piece, sample = pieces.at(self.begin(reader) + int(place))
                numbers.append(self.number(int(pieces.shard[piece]), sample))
        return numbers

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *stream))


@lru_cache(maxsize=16)
def _shuffled(seed: int, epoch: int, reader: int, count: int, buffer: int) -> Ints:
    rng = np.random.default_rng((seed, _WITHIN, epoch, reader))
    order: Ints = np.argsort(np.arange(count) + rng.uniform(0, buffer, count), kind="stable")
    return order
