"""World: which rank this process is, on which device, and what ranks say to each other."""

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
    """One process of a run. Without a launcher: rank 0 of 1, and no process group."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def from_environment(
        cls, local_rank: int | None = None, environ: Mapping[str, str] = os.environ
    ) -> World:
        """Join the group that the launcher describes (RANK, WORLD_SIZE, LOCAL_RANK), or stand alone.

        `local_rank` is the launcher's old `--local_rank` flag; the environment goes before it. Backend: NCCL
        where each rank has an accelerator, gloo otherwise. Raises `UserError` when a rank has no device, or
        when the ranks do not find each other.
        """
        rank, size = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
        local = int(environ.get("LOCAL_RANK", local_rank or 0))
        device = _device(local)
        if size > 1 and not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            try:
                dist.init_process_group(backend, **_meeting(rank, size, environ), timeout=TIMEOUT)
            except dist.DistError as error:  # a port in use, a machine that does not answer
                raise UserError(f"rank {rank} cannot meet the others: {error}") from None
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
        """`build()` on rank 0, then on the others: so that rank 0 alone downloads."""
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
        """Each count summed over ranks, on every rank, in one small exchange."""
        if self.size == 1:
            return list(counts)
        totals = torch.tensor(counts, dtype=torch.int64, device=self.device)
        dist.all_reduce(totals)
        return [int(total) for total in totals.tolist()]

    def gather(self, value: T) -> list[T]:
        """Every rank's `value` in rank order, on every rank. For small things: they are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over ranks of a tensor of any one shape."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """All ranks' rows [n_r, ...] in rank order, on every rank; the n_r may differ."""
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
        """Leave the group. Safe to call twice, and after an error on another rank.

        `failed`: this rank ends by an error. NCCL would then wait for collectives that nobody joins any more;
        the end of the process closes its connections as well.
        """
        if dist.is_initialized() and not (failed and self.device.type == "cuda"):
            dist.destroy_process_group()


def _meeting(rank: int, size: int, environ: Mapping[str, str]) -> dict[str, Any]:
    """Where the ranks meet, for `init_process_group`.

    torchrun keeps one store over its restarts, in which the addresses of dead processes still stand: a rank
    that looks before another has overwritten its own would call the dead. So each start gets a place of its
    own in the store. The launcher's count of restarts does not name it: nodes may count differently.
    """
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {"rank": rank, "world_size": size}
    store, rank, size = next(dist.rendezvous("env://", rank, size, timeout=TIMEOUT))
    name = agree_on_start(store, rank, size)
    return {"store": dist.PrefixStore(name, store), "rank": rank, "world_size": size}


def agree_on_start(store: dist.Store, rank: int, size: int) -> str:
    """A name that the ranks of this start share and no earlier one had, whatever those left in `store`.

    Each rank calls by a number drawn anew; rank 0 answers every call that stands there until all have taken
    the answer, so that it does no harm to answer the dead.
    """
    own = secrets.token_hex(8)
    if rank:
        store.set(f"call {rank}", own)
        name = store.get(f"answer to {own}").decode()
        store.set(f"{name} taken by {rank}", "")
        return name
    name = f"start {own}"
    waiting = set(range(1, size))
    end = time.monotonic() + TIMEOUT.total_seconds()
    while waiting:
        for other in list(waiting):
            if store.check([f"call {other}"]):
                store.set(f"answer to {store.get(f'call {other}').decode()}", name)
            if store.check([f"{name} taken by {other}"]):
                waiting.remove(other)
        if time.monotonic() > end:
            raise UserError(f"rank 0 cannot meet the others: no word from ranks {sorted(waiting)[:8]}")
        time.sleep(0.01)
    return name


def _device(local_rank: int) -> torch.device:
    """The accelerator of this rank, or the CPU where there is none."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if local_rank >= count:
        raise UserError(
            f"local rank {local_rank} has no device: {count} visible; start at most {count} processes on "
            "this machine, or hide all devices to run on the CPU (CUDA_VISIBLE_DEVICES=)"
        )
    torch.accelerator.set_device_index(local_rank)
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return torch.device(accelerator.type, local_rank)
