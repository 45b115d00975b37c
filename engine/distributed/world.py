"""World: the rank and device of this process, and the collective operations between ranks."""

from __future__ import annotations

import datetime
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from common.errors import UserError

T = TypeVar("T")
TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """One process of a run. Without a launcher it is rank 0 of world size 1, without a process group."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def from_environment(
        cls, local_rank: int | None = None, environ: Mapping[str, str] = os.environ
    ) -> World:
        """Join the process group of the launcher, which sets RANK, WORLD_SIZE and LOCAL_RANK.

        `local_rank` is the old `--local_rank` flag of launchers; LOCAL_RANK overrides it. The backend is NCCL
        on CUDA devices and gloo elsewhere. Raises `UserError` if this rank has no device, or if the ranks
        cannot connect.
        """
        rank, size = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
        local = int(environ.get("LOCAL_RANK", local_rank or 0))
        device = _device(local)
        if size > 1 and not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            try:
                rendezvous = _rendezvous(rank, size, environ)
                dist.init_process_group(backend, **rendezvous, timeout=TIMEOUT)
            except dist.DistError as error:  # a port in use, a machine that does not answer
                raise UserError(f"rank {rank} cannot connect to the other ranks: {error}") from None
        return cls(rank, size, device)

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

    def rank0_first(self, build: Callable[[], T]) -> T:
        """Run `build()` on rank 0 first, then on the other ranks, so that only rank 0 downloads."""
        if self.size == 1:
            return build()
        if not self.is_main:
            dist.barrier()
            return build()
        try:
            return build()
        finally:
            dist.barrier()

    def sums(self, *counts: int) -> list[int]:
        """Each count summed over the ranks, on every rank, in one all-reduce."""
        if self.size == 1:
            return list(counts)
        totals = torch.tensor(counts, dtype=torch.int64, device=self.device)
        dist.all_reduce(totals)
        return [int(total) for total in totals.tolist()]

    def gather(self, value: T) -> list[T]:
        """Every rank's `value` in rank order, on every rank. For small values, because they are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over the ranks; it has the same shape on every rank."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

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


def _rendezvous(rank: int, size: int, environ: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `init_process_group` that say how the ranks find each other.

    torchrun keeps one store over its restarts, and the store keeps the addresses of ended processes. A rank
    that reads an address before its owner has overwritten it would connect to an ended process. So each start
    uses a key prefix that no earlier start used. The launcher's count of restarts cannot be the prefix,
    because nodes may count differently.
    """
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {"rank": rank, "world_size": size}
    store, rank, size = next(dist.rendezvous("env://", rank, size, timeout=TIMEOUT))
    prefix = agree_on_prefix(store, rank, size)
    return {"store": dist.PrefixStore(prefix, store), "rank": rank, "world_size": size}


def agree_on_prefix(store: dist.Store, rank: int, size: int) -> str:
    """A key prefix that all ranks of this start share and no earlier start used, whatever is in `store`.

    Each rank asks under a new random id. Rank 0 answers every id that it finds, until all ranks have
    confirmed the prefix. It also answers ids of ended processes: nobody reads those answers.
    """
    random_id = secrets.token_hex(8)
    if rank:
        store.set(f"question of {rank}", random_id)
        prefix = store.get(f"answer to {random_id}").decode()
        store.set(f"{prefix} confirmed by {rank}", "")
        return prefix
    prefix = f"start {random_id}"
    waiting = set(range(1, size))
    end = time.monotonic() + TIMEOUT.total_seconds()
    while waiting:
        for other in list(waiting):
            if store.check([f"question of {other}"]):
                store.set(f"answer to {store.get(f'question of {other}').decode()}", prefix)
            if store.check([f"{prefix} confirmed by {other}"]):
                waiting.remove(other)
        if time.monotonic() > end:
            raise UserError(
                f"rank 0 cannot connect to the other ranks: none of {sorted(waiting)[:8]} answers"
            )
        time.sleep(0.01)
    return prefix


def _device(local_rank: int) -> torch.device:
    """The accelerator of this rank, or the CPU if the machine has no accelerator."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if local_rank >= count:
        raise UserError(
            f"local rank {local_rank} has no device: {count} visible; start at most {count} processes on "
            "this machine, or run on the CPU by hiding all devices (CUDA_VISIBLE_DEVICES=)"
        )
    torch.accelerator.set_device_index(local_rank)
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return torch.device(accelerator.type, local_rank)
