"""The querybank of a run: training captions of the data set to evaluate on."""

from __future__ import annotations

import numpy as np
from torch.utils.data import DataLoader

from common.errors import UserError
from common.languages import LANGUAGES, languages_of
from dataloaders.datasets.eval_protocol import training_texts
from dataloaders.datasets.registry import dataset_spec, read_examples
from dataloaders.examples import Examples
from dataloaders.frame_source import NoFrames
from dataloaders.video_text import VideoTextDataset
from engine.config import Config
from engine.data import chosen_protocol
from engine.distributed.world import World
from engine.input_files import bank_files
from engine.input_spec import InputSpec
from engine.loaders import evaluation_loader


def build_banks(config: Config, world: World, spec: InputSpec) -> dict[str, DataLoader]:
    """The bank of each language of the run, as `build_bank`."""
    return {language: build_bank(config, world, spec, language) for language in languages_of(config.language)}


def build_bank(config: Config, world: World, spec: InputSpec, language: str) -> DataLoader:
    """The loader of this rank's part of the bank: --qb_bank captions, drawn with --seed, or all if it is 0.

    Raises `UserError` if there are no training captions.
    """
    name = config.test_dataset
    files = bank_files(config)
    try:
        examples = read_examples(name, "train", language=config.language, files=files)
        if examples.languages is not None:
            examples = examples.in_language(LANGUAGES.index(language))
    except UserError as error:
        raise UserError(f"--qb_norm: needs training captions ({error})") from None
    if not examples.num_captions:
        raise UserError(f"--qb_norm: {files.annotations} holds no training captions")
    examples = training_texts(examples, chosen_protocol(config, name))
    dataset = VideoTextDataset(
        sample_captions(examples, config.qb_bank, seed=config.seed),
        NoFrames(),
        spec.tokenizer,
        view="captions",
        max_words=spec.words(config.max_words, dataset_spec(name).split("test").words),
        max_frames=config.max_frames,
        image_size=spec.image_size,
    )
    return evaluation_loader(config, world, dataset)


def sample_captions(examples: Examples, count: int, *, seed: int) -> Examples:
    """`count` captions drawn without replacement, in their order; all if `count` is 0 or too large."""
    if not 0 < count < examples.num_captions:
        return examples
    drawn = np.sort(np.random.default_rng(seed).choice(examples.num_captions, size=count, replace=False))
    return Examples(
        video_ids=examples.video_ids,
        captions=examples.captions.take(drawn),
        video_of_caption=examples.video_of_caption[drawn],
        languages=None if examples.languages is None else examples.languages[drawn],
    )
