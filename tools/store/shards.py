"""Which part of the videos this process stores, if several machines share the work."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import UserError
from dataloaders.frame_store.format import shard_name, shard_of


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`; `source` names the flag or variables that set them."""

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
    """The shard of `--shard i/n` (i from 0); None for "none". Raises `UserError` for anything else."""
    if text == "none":
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard {text}: must be i/n with i from 0 to n-1, such as 0/4, or none")
    return _shard(int(match[1]), int(match[2]), "--shard")


def shard_of_environment(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """The shard that torchrun or SLURM (array, step, or both) gives this process; None for a single process.

    An empty variable counts as unset. Raises `UserError` that names a variable that is not a number.
    """
    if environment.get("RANK") and environment.get("WORLD_SIZE"):
        rank, count = (_number(environment, name, 0) for name in ("RANK", "WORLD_SIZE"))
        return _shard(rank, count, "RANK and WORLD_SIZE")
    # Not SLURM_NTASKS: in a batch script without a step it counts tasks that do not run.
    index, count = _number(environment, "SLURM_PROCID", 0), _number(environment, "SLURM_STEP_NUM_TASKS", 1)
    if environment.get("SLURM_ARRAY_TASK_ID") and environment.get("SLURM_ARRAY_TASK_COUNT"):
        first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
        step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
        index += (_number(environment, "SLURM_ARRAY_TASK_ID", 0) - first) // step * count
        count *= _number(environment, "SLURM_ARRAY_TASK_COUNT", 1)
    return _shard(index if count > 1 else 0, count, "SLURM's variables")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text}: this environment variable must be a whole number") from None


def _shard(index: int, count: int, source: str) -> Shard | None:
    return Shard(index, count, source) if count > 1 else None
