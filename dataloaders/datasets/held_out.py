"""A part of the training videos kept for choosing a checkpoint (`--select_on held_out`). V videos."""

from __future__ import annotations

import numpy as np

from dataloaders.examples import Examples

_STREAM = 0x4E7D  # apart from other draws of the same seed


def hold_out(examples: Examples, *, share: float, seed: int) -> tuple[Examples, Examples]:
    """(what is trained on, what is held out): `share` of the videos, with all captions of each.

    The videos are drawn by `seed` alone, from their ids: the same ones whatever the order of the file, at
    least one on either side. Raises `ValueError` where there are fewer than two videos.
    """
    if examples.num_videos < 2:
        raise ValueError(f"--select_on held_out: needs at least 2 training videos, not {examples.num_videos}")
    count = min(max(round(share * examples.num_videos), 1), examples.num_videos - 1)
    by_id = np.argsort(np.asarray(list(examples.video_ids)), kind="stable")
    held = np.zeros(examples.num_videos, dtype=bool)
    drawn = np.random.default_rng([seed, _STREAM]).choice(examples.num_videos, count, replace=False)
    held[by_id[drawn]] = True
    return examples.keep_videos(~held), examples.keep_videos(held)
