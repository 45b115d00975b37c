"""How a batch is divided over ranks and accumulated passes."""

from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from engine.config_checks import parse_and_check
from engine.data import batch_per_rank
from engine.distributed.world import World


def per_rank(batch: int, *, ranks: int, passes: int = 1, examples: int = 1000) -> int:
    argv = ["--do_train", "--output_dir", "out", "--dataset", "msrvtt", "--language", "english"]
    argv += ["--batch_size", str(batch), "--gradient_accumulation_steps", str(passes)]
    config, _ = parse_and_check(argv, program="main_task_retrieval.py")
    return batch_per_rank(config, World(0, ranks, torch.device("cpu")), examples)


def test_the_batch_size_counts_all_ranks_and_passes() -> None:
    assert per_rank(256, ranks=8) == 32
    assert per_rank(256, ranks=8, passes=4) == 8
    assert per_rank(12, ranks=2, passes=3, examples=12) == 2


@pytest.mark.parametrize(
    ("batch", "ranks", "passes", "examples", "message"),
    [
        (3, 4, 1, 1000, "--batch_size 3: cannot be divided by 4 ranks x 1 accumulated passes; give 4"),
        (10, 4, 1, 1000, "--batch_size 10: .*; give 8 or 12"),
        (10, 4, 1, 11, "--batch_size 10: .*; give 8$"),
        (16, 2, 1, 15, "--batch_size 16: larger than the training set of 15 examples; give at most 14"),
        # One step takes all accumulated passes, so their sum must fit too.
        (8, 1, 4, 6, "--batch_size 8: larger than the training set of 6 examples; give at most 4"),
        (8, 8, 1, 5, "training set of 5 examples is too small for 8 ranks"),
    ],
)
def test_an_impossible_batch_size_is_refused_with_the_nearest_legal_ones(
    batch: int, ranks: int, passes: int, examples: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        per_rank(batch, ranks=ranks, passes=passes, examples=examples)
