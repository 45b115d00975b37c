"""What a launcher's environment variables say about this process: its rank, and where the ranks meet.

Does not import torch: programs read the variables before they do anything else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import UserError

HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Place:
    """The place of one process among `size` ranks. `local_rank` counts the ranks of this node.

    The ranks meet at a store at `host`:`port`. Rank 0 serves it, or the launcher if `launcher_serves`.
    `first_on_node`: whether this rank downloads files for its node. Without LOCAL_RANK only rank 0 does.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    first_on_node: bool = True
    host: str = ""
    port: int = 0
    launcher_serves: bool = False

    @property
    def serves(self) -> bool:
        """Whether this rank serves the store."""
        return self.rank == 0 and not self.launcher_serves

    @property
    def endpoint(self) -> str:
        """ "HOST:PORT", for messages."""
        return f"{self.host}:{self.port}"


def place_of(environ: Mapping[str, str] = os.environ, local_rank: int | None = None) -> Place:
    """The place that `environ` gives this process; rank 0 of world size 1 without variables.

    An empty variable counts as unset. `local_rank` is the flag `--local_rank`; LOCAL_RANK overrides it.
    Raises `UserError` that names the variable which is wrong or missing.
    """
    size, rank = _number(environ, "WORLD_SIZE", least=1), _number(environ, "RANK")
    on_node = _number(environ, "LOCAL_RANK")
    on_node = local_rank if on_node is None else on_node
    if rank and size is None:
        raise UserError(
            f"RANK is {rank}, but WORLD_SIZE is not set: set it to the number of ranks, or unset RANK"
        )
    if (size or 1) == 1:
        if rank:
            raise UserError(f"RANK is {rank}: must be below WORLD_SIZE, which is {size}")
        return Place(local_rank=on_node or 0)
    assert size is not None
    if rank is None:
        raise UserError(
            f"WORLD_SIZE is {size}, but RANK is not set: give each process its RANK, 0 to {size - 1}"
        )
    if rank >= size:
        raise UserError(f"RANK is {rank}: must be below WORLD_SIZE, which is {size}")
    host, port = environ.get("MASTER_ADDR"), _number(environ, "MASTER_PORT", least=1, most=HIGHEST_PORT)
    if not host or port is None:
        name = "MASTER_ADDR" if not host else "MASTER_PORT"
        raise UserError(
            f"WORLD_SIZE is {size}, but {name} is not set: ranks need the address and a port of rank 0"
        )
    return Place(
        rank,
        size,
        local_rank=on_node or 0,
        first_on_node=rank == 0 if on_node is None else on_node == 0,
        host=host,
        port=port,
        launcher_serves=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def is_one_of_several(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several ranks. False where the variable is wrong."""
    try:
        return (_number(environ, "WORLD_SIZE") or 1) > 1
    except UserError:
        return False


def _number(environ: Mapping[str, str], name: str, *, least: int = 0, most: int | None = None) -> int | None:
    """The variable as a number of at least `least`; None where it is unset or empty."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    limits = f"from {least}" if most is None else f"from {least} to {most}"
    if (
        not (text.isascii() and text.isdigit())
        or int(text) < least
        or (most is not None and int(text) > most)
    ):
        raise UserError(f"{name} is {text!r}: this environment variable must be a whole number {limits}")
    return int(text)
