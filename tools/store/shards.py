"""Which part of the videos this process stores, where several machines share the work."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dataloaders.frame_store.format import shard_name, shard_of


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`; `source` says where that was read."""

    index: int
    count: int
    source: str

    @property
    def folder(self) -> str:
        """Its folder inside the store's."""
        return shard_name(self.index, self.count)

    def holds(self, video_id: str) -> bool:
        """Whether this part stores a video."""
        return shard_of(video_id, self.count) == self.index


def parse_shard(text: str) -> Shard | None:
    """The shard of `--shard i/n` (i from 0); None for "none". Raises `ValueError` on anything else."""
    if text == "none":
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard {text}: must be i/n with i from 0 to n-1, as 0/4, or none")
    return _shard(int(match[1]), int(match[2]), "--shard")


def shard_of_environment(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """The shard that torchrun or SLURM (array, step, or both) gives this process; None for a lone process."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _shard(int(environment["RANK"]), int(environment["WORLD_SIZE"]), "RANK and WORLD_SIZE")
    # Of a batch script that starts no step, SLURM_NTASKS would count tasks that do not run.
    index, count = _number(environment, "SLURM_PROCID", 0), _number(environment, "SLURM_STEP_NUM_TASKS", 1)
    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
        place = (
            int(environment["SLURM_ARRAY_TASK_ID"]) - _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
        ) // step
        index += place * count
        count *= int(environment["SLURM_ARRAY_TASK_COUNT"])
    return _shard(index if count > 1 else 0, count, "SLURM's variables")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    return int(environment.get(name) or default)


def _shard(index: int, count: int, source: str) -> Shard | None:
    return Shard(index, count, source) if count > 1 else None
