"""Choosing and masking the tokens for masked language modelling (the MLM of Shen et al. 2023). W words."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

IGNORE = -100
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1


def mask_tokens(
    ids: NDArray[np.int64],
    mask: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    mask_token_id: int,
    vocab_size: int,
    special_ids: Collection[int],
    special_counts: tuple[int, int] = (1, 1),
    probability: float = 0.15,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(masked ids [W], labels [W]) of one text.

    Each real token between the special ones (`special_counts`: how many stand before and after a text) is
    chosen with `probability`. 80 % of the chosen tokens become `mask_token_id`, 10 % a random id that is not
    special, and 10 % stay. Labels are the original ids of chosen tokens and -100 elsewhere. If no token is
    chosen, all labels are -100.
    """
    length = int(mask.sum())
    assert mask[:length].all(), "real tokens come first"
    inner = np.zeros(len(ids), dtype=bool)
    before, after = special_counts
    inner[before : max(length - after, before)] = True
    # One draw per position for every text: so a decision does not depend on the other ones.
    chosen = inner & (rng.random(len(ids)) < probability)
    action = rng.random(len(ids))
    random_ids = _ordinary_ids(
        rng, len(ids), vocab_size=vocab_size, special_ids={*special_ids, mask_token_id}
    )

    masked = ids.copy()
    hide = chosen & (action < MASKED_SHARE)
    swap = chosen & (action >= MASKED_SHARE) & (action < MASKED_SHARE + RANDOM_SHARE)
    masked[hide] = mask_token_id
    masked[swap] = random_ids[swap]
    return masked, np.where(chosen, ids, IGNORE)


def _ordinary_ids(
    rng: np.random.Generator, count: int, *, vocab_size: int, special_ids: Collection[int]
) -> NDArray[np.int64]:
    """Uniform draws from the vocabulary without `special_ids`.

    Draws ranks among the other ids, then shifts them past the special ids.
    """
    special = sorted(special_id for special_id in special_ids if 0 <= special_id < vocab_size)
    drawn = rng.integers(vocab_size - len(special), size=count)
    for special_id in special:
        drawn += drawn >= special_id
    return drawn
