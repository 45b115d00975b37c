"""How a batch is shared out over ranks and accumulated passes."""

from __future__ import annotations

import pytest
import torch

from engine.config_checks import parse_and_check
from engine.data import batch_per_rank
from engine.distributed.world import World


def per_rank(batch: int, *, ranks: int, passes: int = 1, examples: int = 1000) -> int:
    argv = ["--do_train", "--output_dir", "out", "--dataset", "msrvtt", "--language", "english"]
    argv += ["--batch_size", str(batch), "--gradient_accumulation_steps", str(passes)]
    config, _ = parse_and_check(argv, program="main_task_retrieval.py")
    return batch_per_rank(config, World(0, ranks, torch.device("cpu")), examples)


def test_the_batch_is_that_of_one_step_over_all_ranks() -> None:
    assert per_rank(256, ranks=8) == 32
    assert per_rank(256, ranks=8, passes=4) == 8
    assert per_rank(12, ranks=2, passes=3, examples=12) == 2


@pytest.mark.parametrize(
    ("batch", "ranks", "passes", "examples", "message"),
    [
        (3, 4, 1, 1000, "--batch_size 3: cannot be shared over 4 ranks x 1 accumulated passes; give 4"),
        (10, 4, 1, 1000, "--batch_size 10: .*; give 8 or 12"),
        (10, 4, 1, 11, "--batch_size 10: .*; give 8$"),
        (16, 2, 1, 15, "--batch_size 16: larger than the training set of 15 examples; give at most 14"),
        # Accumulated passes are parts of one step: their sum must fit too.
        (8, 1, 4, 6, "--batch_size 8: larger than the training set of 6 examples; give at most 4"),
        (8, 8, 1, 5, "training set of 5 examples is too small for 8 ranks"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_with_the_nearest_that_can(
    batch: int, ranks: int, passes: int, examples: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        per_rank(batch, ranks=ranks, passes=passes, examples=examples)
