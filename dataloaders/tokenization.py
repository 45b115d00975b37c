"""What data sets need of a tokenizer; the tokenizers themselves come with the backbones. W words."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Encoded = tuple[NDArray[np.int64], NDArray[np.int64], bool]


class Tokenizer(Protocol):
    """Text -> token ids, and the ids that have a meaning of their own."""

    vocab_size: int
    start_token_id: int
    end_token_id: int
    mask_token_id: int
    special_ids: tuple[int, ...]

    def encode(self, text: str, max_words: int) -> Encoded:
        """Ids [W], mask [W] (1 on real tokens) and whether tokens were cut off, for W = `max_words`."""
        ...
