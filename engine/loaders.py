"""What a rank reads: the training set as training sees it, and how batches are divided over the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader

from common.errors import UserError
from dataloaders.examples import Examples
from dataloaders.frame_source import FrameSource
from dataloaders.loader import EpochSampler, ShardSampler, build_loader
from dataloaders.video_text import VideoTextDataset
from engine.checkpoint.resume import describe_data
from engine.config import Config
from engine.distributed.world import World
from engine.logs.run_log import RunLog

# Frames of one forward pass of evaluation as floats: 37 clips of 12 frames of 224 pixels. The published
# --batch_size_val of 3500 clips would take 25 GB on one GPU.
EVALUATION_BYTES = 256 << 20


class TrainingInput(Protocol):
    """What a training needs of its training set, wherever that is read from.

    `sampler` has `set_epoch` and `samples_of` of an `EpochSampler`; `loader` gives this rank's batches.
    `examples` are None where nobody knows them before they are read.
    """

    @property
    def sampler(self) -> Any: ...

    @property
    def loader(self) -> Any: ...

    @property
    def examples(self) -> Examples | None: ...

    def name_of(self, index: int) -> str:
        """The video of a training example, for messages."""
        ...

    def describe(self) -> dict[str, Any]:
        """Number and hash of the training set, which a resumed run compares."""
        ...

    def end_epoch(self, world: World, log: RunLog) -> None:
        """Log what the epoch could not use. Collective."""
        ...


@dataclass
class TrainingData:
    """The training set and this rank's loader. `held_out`: what --select_on held_out sets aside."""

    dataset: VideoTextDataset
    sampler: EpochSampler
    loader: DataLoader
    store: FrameSource
    held_out: Examples | None = None

    @property
    def examples(self) -> Examples:
        return self.dataset.examples

    def name_of(self, index: int) -> str:
        return self.examples.video_id_of(index)

    def describe(self) -> dict[str, Any]:
        return describe_data(self.examples)

    def end_epoch(self, world: World, log: RunLog) -> None:
        pass  # the trainer counts the clips that it got replaced


def batch_per_rank(config: Config, world: World, examples: int) -> int:
    """Clips of one forward pass on one rank. `--batch_size` counts all ranks and all accumulated passes.

    `examples` is the size of the training set. Raises `UserError`, which names the nearest legal batch size,
    if the batch cannot be divided evenly or is larger than the training set.
    """
    parts = world.size * config.gradient_accumulation_steps
    divisor = f"{world.size} ranks x {config.gradient_accumulation_steps} accumulated passes"
    largest = examples // parts * parts
    if not largest:
        raise UserError(f"the training set of {examples} examples is too small for {divisor}")
    if config.batch_size > examples:
        raise UserError(
            f"--batch_size {config.batch_size}: larger than the training set of {examples} examples; "
            f"give at most {largest}"
        )
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        legal = " or ".join(str(n) for n in (below, below + parts) if 0 < n <= largest)
        raise UserError(f"--batch_size {config.batch_size}: cannot be divided by {divisor}; give {legal}")
    return config.batch_size // parts


def evaluation_loader(config: Config, world: World, dataset: VideoTextDataset) -> DataLoader:
    """A loader of this rank's part of `dataset`, which is contiguous. --batch_size_val counts all ranks.

    A batch of clips holds at most `EVALUATION_BYTES` of float32 frames. The workers end with each pass.
    """
    sampler = ShardSampler(len(dataset), rank=world.rank, world_size=world.size)
    batch_size = max(1, config.batch_size_val // world.size)
    float_bytes = 4 * dataset.sample_bytes  # it counts uint8 frames
    if float_bytes:
        batch_size = min(batch_size, max(1, EVALUATION_BYTES // float_bytes))
    return rank_loader(config, world, dataset, sampler, batch_size=batch_size, persistent=False)


def rank_loader(
    config: Config,
    world: World,
    dataset: VideoTextDataset,
    sampler: Any,
    *,
    batch_size: int,
    persistent: bool = True,
) -> DataLoader:
    """The loader of what `sampler` gives this rank. See `build_loader`."""
    return build_loader(
        dataset,
        sampler,
        batch_size=batch_size,
        num_workers=config.num_thread_reader,
        pin_memory=world.device.type == "cuda",
        persistent=persistent,
    )
