"""The querybank of a run: captions of the training split of the data set that is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from common.errors import UserError
from dataloaders.datasets.registry import read_examples
from dataloaders.examples import Examples
from dataloaders.loader import ShardSampler, build_loader
from dataloaders.video_text import VideoTextDataset
from engine.config import Config
from engine.data import DEFAULT_WORDS, TEXT_WORDS, InputSpec
from engine.distributed.world import World
from engine.input_files import bank_files


def build_bank(config: Config, world: World, spec: InputSpec) -> DataLoader:
    """This rank's share of the bank: --qb_bank captions drawn by --seed, or all of them.

    Raises `UserError` where there are no training annotations.
    """
    name = config.test_dataset
    files = bank_files(config)
    try:
        examples = read_examples(name, "train", language=config.language, files=files)
    except UserError as error:
        raise UserError(f"--qb_norm: needs training captions ({error})") from None
    if not examples.num_captions:
        raise UserError(f"--qb_norm: {files.annotations} holds no training captions")
    dataset = VideoTextDataset(
        _drawn(examples, config.qb_bank, seed=config.seed),
        _NoFrames(),
        spec.tokenizer,
        view="captions",
        max_words=config.max_words or TEXT_WORDS.get((name, "test"), DEFAULT_WORDS),
        max_frames=config.max_frames,
        image_size=spec.image_size,
    )
    return build_loader(
        dataset,
        ShardSampler(len(dataset), rank=world.rank, world_size=world.size),
        batch_size=max(1, config.batch_size_val // world.size),
        num_workers=config.num_thread_reader,
        pin_memory=world.device.type == "cuda",
    )


def _drawn(examples: Examples, count: int, *, seed: int) -> Examples:
    """`count` captions drawn without replacement, in their order; all where 0 or more than there are."""
    if not 0 < count < examples.num_captions:
        return examples
    drawn = np.sort(np.random.default_rng(seed).choice(examples.num_captions, size=count, replace=False))
    return Examples(
        video_ids=examples.video_ids,
        captions=examples.captions.take(drawn),
        video_of_caption=examples.video_of_caption[drawn],
    )


class _NoFrames:
    """The bank reads no frames."""

    def num_frames(self, video_id: str) -> int:
        raise AssertionError(video_id)

    def read_frames(self, video_id: str, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        raise AssertionError(video_id)
