"""World: the rank and device of this process, and the collective operations between ranks."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from common.errors import UserError, one_line
from engine.distributed.device import device_of, refuse_shared_devices
from engine.distributed.environment import Place, place_of
from engine.distributed.failures import Failures
from engine.distributed.meeting import TIMEOUT, connect, connect_again, meet

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process of a run. Without a launcher it is rank 0 of world size 1, without a process group.

    `failures` tells the ranks why one of them ended (None with one rank).
    """

    rank: int
    size: int
    device: torch.device
    first_on_node: bool = True
    failures: Failures | None = field(default=None, compare=False)

    @classmethod
    def from_environment(
        cls, local_rank: int | None = None, environ: Mapping[str, str] = os.environ
    ) -> World:
        """Join the other ranks, as the launcher's variables say (`environment.place_of`).

        The backend is NCCL on GPUs and gloo on CPUs. While other ranks are absent, a line says so. Raises
        `UserError` if a variable is wrong, if this rank has no device, or if the ranks cannot connect.
        """
        place = place_of(environ, local_rank)
        device = device_of(place)
        if place.size == 1 or dist.is_initialized():
            return cls(place.rank, place.size, device, place.first_on_node)
        return _join(place, device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def first_rank_first(self, build: Callable[[], T]) -> T:
        """Run `build()` on the first rank of each node, then on its others: only one downloads for a node."""
        if self.size == 1:
            return build()
        if not self.first_on_node:
            dist.barrier()
            return build()
        built = build()  # if it fails, this rank ends, and with it the others
        dist.barrier()
        return built

    def sharing_failures(self) -> contextlib.AbstractContextManager[None]:
        """A block whose exception ends all ranks within seconds, each with its reason (`Failures.shared`)."""
        return contextlib.nullcontext() if self.failures is None else self.failures.shared()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the ranks; it has the same shape on every rank. The CPU waits for no GPU."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: T) -> list[T]:
        """Every rank's `value` in rank order, on every rank. For small values, because they are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over the ranks; it has the same shape on every rank."""
        return values if self.size == 1 else self.sum(values) / self.size

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows [n, ...] of all ranks in rank order, on every rank; n may differ between ranks."""
        if self.size == 1:
            return rows
        counts = torch.zeros(self.size, dtype=torch.int64, device=rows.device)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        padded = rows.new_zeros((int(counts.max()), *rows.shape[1:]))
        padded[: len(rows)] = rows
        pieces = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[: int(n)] for piece, n in zip(pieces, counts, strict=True)])

    def close(self, *, failed: bool = False) -> None:
        """Leave the process group. May be called twice, and after an error on another rank.

        `failed`: this rank ends by an error. NCCL would then wait for collectives that no other rank joins.
        So the group stays, and the end of the process closes its connections.
        """
        if dist.is_initialized() and not (failed and self.device.type == "cuda"):
            dist.destroy_process_group()
        if self.failures is not None:
            self.failures.close()


def _join(place: Place, device: torch.device) -> World:
    store = connect(place)
    prefix = meet(place, store)
    failures = Failures(
        partial(connect_again, place),
        prefix,
        rank=place.rank,
        size=place.size,
        served=store if place.serves else None,
    )
    world = World(place.rank, place.size, device, place.first_on_node, failures)
    try:
        with failures.shared():
            mine = dist.PrefixStore(prefix, store)
            refuse_shared_devices(place, device, socket.gethostname(), mine)
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=mine,
                rank=place.rank,
                world_size=place.size,
                timeout=TIMEOUT,
            )
    except dist.DistError as error:
        world.close(failed=True)
        raise UserError(f"rank {place.rank} cannot connect to the other ranks: {one_line(error)}") from None
    except BaseException:
        world.close(failed=True)
        raise
    return world
