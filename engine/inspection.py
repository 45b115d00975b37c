"""Whether texts and frames fit the model, by a sample of them, before the first step."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.errors import UserError
from common.languages import LANGUAGES
from dataloaders.video_text import VideoTextDataset
from engine.config import Config
from engine.distributed.world import World
from engine.logs.run_log import RunLog

MOST_UNKNOWN = 0.02  # share of tokens; BERT models know nearly all words of their own language
TOO_MANY_UNKNOWN = 0.5


def inspect_texts(config: Config, dataset: VideoTextDataset, world: World, log: RunLog) -> None:
    """Log how many texts are truncated, and warn if the tokenizer does not know many of their tokens.

    Raises `UserError` if it does not know half of them: it is for other languages.
    """
    if not world.is_main:
        return
    languages = dataset.examples.languages
    numbers: list[Any] = [None] if languages is None else np.unique(languages).tolist()
    for number in numbers:
        _inspect_texts(config, dataset, number, log)


def _inspect_texts(config: Config, dataset: VideoTextDataset, number: int | None, log: RunLog) -> None:
    """`inspect_texts` for the captions of one language."""
    sample = dataset.inspect_captions(language=number)
    texts = "texts" if number is None else f"{LANGUAGES[number].capitalize()} texts"
    log.info(f"{sample.truncated:,} of {sample.captions:,} inspected {texts} are truncated to --max_words")
    if sample.unknown_share < MOST_UNKNOWN:
        return
    share = (
        f"{sample.unknown_share:.0%} of the tokens of {sample.captions:,} inspected {texts} are unknown to "
        f"the tokenizer of {dataset.tokenizer_source(number)}, or only parts of characters"
    )
    if sample.unknown_share >= TOO_MANY_UNKNOWN:
        raise UserError(
            f"{share}: it does not cover their language; --language must be theirs, and the model one "
            "that knows it (--text_tower)"
        )
    log.warning(
        f"{share}: the model cannot tell such words apart; give a text model for the language of the captions"
    )


def inspect_frames(config: Config, dataset: VideoTextDataset, world: World, log: RunLog) -> None:
    """Warn if clips have more frames than are stored: the same frame then comes more than once."""
    if not world.is_main:
        return
    stored = dataset.probe_stored_frames()
    short = stored[stored < config.max_frames]
    if len(short):
        log.warning(
            f"--max_frames {config.max_frames}: {len(short)} of {len(stored)} inspected videos have fewer "
            f"frames in the store (at most {short.max()}), so frames repeat; give at most {short.max()}, "
            "or take more of each video (--num_frames, here or in tools/frame2lmdb.py)"
        )
