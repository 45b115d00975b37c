"""The interface of a tokenizer; the tokenizers themselves belong to the backbones. W words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Encoded = tuple[NDArray[np.int64], NDArray[np.int64], bool]


class Tokenizer(Protocol):
    """Turns text into token ids, and names its special ids.

    All ids are below `vocab_size`. `unknown_ids` stand for text that the vocabulary lacks, or for parts of a
    character. `special_counts`: how many special tokens stand before and after every text. `source` is the
    flag that it comes from, for messages.
    """

    source: str
    vocab_size: int
    unknown_ids: tuple[int, ...]
    start_token_id: int
    end_token_id: int
    mask_token_id: int
    special_ids: tuple[int, ...]
    special_counts: tuple[int, int]

    def encode(self, text: str, max_words: int) -> Encoded:
        """(ids [W], mask [W], whether the text was truncated); W = `max_words`, mask 1 on real tokens."""
        ...


@dataclass(frozen=True)
class TokenizerPair:
    """A tokenizer for each language, in the order of `common.languages.LANGUAGES`."""

    tokenizers: tuple[Tokenizer, ...]


def tokenizer_of(tokenizer: Tokenizer | TokenizerPair, language: int | None) -> Tokenizer:
    """The tokenizer of a language. One tokenizer serves all languages that its model knows."""
    if isinstance(tokenizer, TokenizerPair):
        assert language is not None, "the texts must say their language"
        return tokenizer.tokenizers[language]
    return tokenizer
