"""One reader in one epoch: reads its stretch of the row, shard after shard, and gives samples in their order.

A sample that cannot be used is replaced by another one of the same stretch, so that every rank gets as many
batches as planned, whatever its shards hold. Which one depends on the plan and on what is broken only, so a
resumed run replaces it alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from common.errors import UserError
from dataloaders.frame_sampling import TooFewFramesError
from dataloaders.frame_source import FramesError
from dataloaders.tar_shards.order import Pieces, ShardOrder
from dataloaders.tar_shards.raw_samples import BadSample, BadSampleError, RawSample, read_samples
from dataloaders.tar_shards.stream import Patience, ShardError, ShardStream

T = TypeVar("T")
# Errors of one sample, whose message names it.
_OF_A_SAMPLE = (FramesError, TooFewFramesError, BadSampleError)
MOST_BROKEN_SHARDS = 3  # that give no sample at all, one after another
MOST_BAD_SAMPLES = 1000  # in a row
# A sample; None if it cannot be used; False if it is not there and nobody said that it was.
_Read = RawSample | None | Literal[False]


class Fault(NamedTuple):
    """Why some `samples` of a shard were not used."""

    shard: str
    why: str
    samples: int = 1

    def __str__(self) -> str:
        samples = "1 sample" if self.samples == 1 else f"{self.samples:,} samples"
        return f"{samples} of {self.shard} skipped: {self.why}"


class Given(NamedTuple):
    """What `take` gives: the result of `make`, and whether the sample replaces another one."""

    made: Any
    replaced: bool


class ShardReader:
    """The samples of reader `reader` in `epoch`, without the first `start` that it would give.

    `faults` collects what could not be used; the caller empties it. `take` raises `UserError` where shard
    after shard cannot be read, or where no sample of very many can be used.
    """

    def __init__(
        self, order: ShardOrder, epoch: int, reader: int, start: int, *, patience: Patience | None = None
    ) -> None:
        self.faults: list[Fault] = []
        self._order = order
        self._patience = patience
        self._pieces = order.pieces(epoch)
        self._begin = order.begin(reader)
        self._shuffled = order.shuffled(epoch, reader)
        self._given = start
        self._turn = np.empty_like(self._shuffled)  # when each position of the stretch is given
        self._turn[self._shuffled] = np.arange(len(self._shuffled))
        # All before this position are read where `start` samples are given.
        self._due = int(self._shuffled[:start].max(initial=-1)) + 1
        self._next = int(self._shuffled[start:].min(initial=len(self._shuffled)))
        self._held: dict[int, RawSample] = {}
        self._absent: set[int] = set()  # positions behind the end of a shard whose size was guessed
        self._unread = self._read_row(self._next)
        self._broken_shards = 0
        self._problems: deque[Fault] = deque(maxlen=MOST_BROKEN_SHARDS)  # the last ones

    def take(self, make: Callable[[RawSample, int], T]) -> Given:
        """The next sample, as `make` (sample, its number) makes it."""
        position = int(self._shuffled[self._given])
        self._due = max(self._due, position + 1)
        self._given += 1
        self._read_up_to(self._due)
        sample = self._held.pop(position, None)
        if sample is not None:
            given = self._make(sample, position, make)
            if given is not None:
                return given
        # Where a shard is shorter than was guessed nothing is missing: other samples come twice.
        return self._replacement(make)._replace(replaced=position not in self._absent)

    def close(self) -> None:
        self._unread.close()

    def _replacement(self, make: Callable[[RawSample, int], T]) -> Given:
        """The sample in memory that would come last, else the first usable one that follows."""
        held = [position for position in self._held if position < self._due]
        for position in sorted(held, key=lambda place: -self._turn[place]):
            given = self._make(self._held[position], position, make)
            if given is not None:
                return given
            del self._held[position]
        position = self._due
        for _ in range(MOST_BAD_SAMPLES):
            sample = self._look_ahead(position)
            given = None if sample is None else self._make(sample, position, make)
            if given is not None:
                return given
            self._held.pop(position, None)
            position += 1
        last = " | ".join(f"{fault.shard}: {fault.why}" for fault in self._problems)
        raise UserError(f"--shards: {MOST_BAD_SAMPLES} samples in a row cannot be used; the last: {last}")

    def _look_ahead(self, position: int) -> RawSample | None:
        """A sample of the stretch that is not due, or one behind it; the row's first follows its last."""
        if position < len(self._shuffled):
            self._read_up_to(position + 1)
            return self._held.get(position)
        if self._next != position:
            self.close()
            self._unread = self._read_row(position)
            self._next = position
        self._next += 1
        return next(self._unread) or None

    def _make(self, sample: RawSample, position: int, make: Callable[[RawSample, int], T]) -> Given | None:
        piece, in_shard = self._place(position)
        shard = int(self._pieces.shard[piece])
        number = self._order.number(shard, in_shard)
        try:
            return Given(make(sample, number), False)
        except _OF_A_SAMPLE as error:
            self._fault(shard, f"{sample.key}: {error}", int(position < len(self._turn)))
            return None

    def _place(self, position: int) -> tuple[int, int]:
        return self._pieces.at((self._begin + position) % int(self._pieces.ends[-1]))

    def _fault(self, shard: int, why: str, samples: int) -> None:
        """Remember why `samples` of this stretch cannot be used; of other stretches their readers tell."""
        fault = Fault(self._order.addresses[shard], why, samples)
        self._problems.append(fault)
        if samples:
            self.faults.append(fault)

    def _read_up_to(self, end: int) -> None:
        """Read all positions before `end` that are not read; keep those that are still to be given."""
        while self._next < min(end, len(self._shuffled)):
            sample = next(self._unread)
            if sample is False:
                self._absent.add(self._next)
            elif sample is not None and self._is_wanted(self._next):
                self._held[self._next] = sample
            self._next += 1

    def _is_wanted(self, position: int) -> bool:
        """Whether a position of the stretch is still to be given, or due now."""
        return position < len(self._turn) and bool(self._turn[position] >= self._given - 1)

    def _read_row(self, position: int) -> Generator[_Read, None, None]:
        """The samples from a position of the stretch on, without end."""
        pieces = self._pieces
        piece, sample = self._place(position)
        while True:
            read = 0
            with closing(self._read_piece(pieces, piece, sample, position)) as samples:
                for found in samples:
                    read += isinstance(found, RawSample)
                    position += 1
                    yield found
            self._broken_shards = 0 if read else self._broken_shards + 1
            if self._broken_shards >= MOST_BROKEN_SHARDS:
                last = " | ".join(f"{fault.shard}: {fault.why}" for fault in self._problems)
                raise UserError(
                    f"--shards: {self._broken_shards} shards in a row gave no sample: {last}; once they can "
                    "be read, --resume auto goes on from the last saved state"
                )
            piece = (piece + 1) % len(pieces.ends)
            sample = int(pieces.first[piece])

    def _read_piece(
        self, pieces: Pieces, piece: int, first: int, position: int
    ) -> Generator[_Read, None, None]:
        """Samples `first` to the last of a piece; `position` is that of the first one."""
        shard, last = int(pieces.shard[piece]), int(pieces.last[piece])
        stream = ShardStream(self._order.addresses[shard], patience=self._patience)
        done, why = first, f"it ends before its {last:,} samples"
        try:
            for number, sample in enumerate(read_samples(stream, skipped=first)):
                if number < first:
                    continue
                if isinstance(sample, BadSample):
                    wanted = self._is_wanted(position + number - first)
                    self._fault(shard, f"{sample.key}: {sample.why}", int(wanted))
                    yield None
                else:
                    yield sample
                done = number + 1
                if done == last:
                    return
        except ShardError as error:
            why = str(error).removeprefix(f"{self._order.addresses[shard]}: ")
            counted = True
        else:
            counted = bool(self._order.exact[shard])
        finally:
            stream.close()
        positions = range(position + done - first, position + last - first)
        missing = sum(map(self._is_wanted, positions))
        if counted:
            self._fault(shard, why, missing)
        for _ in positions:
            yield None if counted else False
