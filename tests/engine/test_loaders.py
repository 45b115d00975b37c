"""How batches are divided over ranks and accumulated passes, and how large those of evaluation are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.errors import UserError
from engine.config_checks import parse_and_check
from engine.distributed.world import World
from engine.loaders import batch_per_rank, evaluation_loader


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


class Clips(torch.utils.data.Dataset[int]):
    """1,000 clips of 12 frames."""

    def __init__(self, size: int) -> None:
        self.sample_bytes = 12 * 3 * size**2

    def __len__(self) -> int:
        return 1000


@pytest.mark.parametrize(
    ("size", "ranks", "flag", "batch"),
    [
        (224, 1, 3500, 37),  # 444 frames of 0.6 MB; the whole batch would take 25 GB
        (224, 8, 3500, 37),
        (224, 8, 256, 32),  # a smaller batch stays as it is
        (336, 1, 3500, 16),
        (4000, 1, 3500, 1),  # at least one clip
        (0, 1, 3500, 3500),  # texts
    ],
)
def test_frames_of_an_evaluation_batch_have_a_bounded_size(
    size: int, ranks: int, flag: int, batch: int
) -> None:
    argv = ["--do_eval", "--output_dir", "out", "--dataset", "msrvtt", "--language", "english"]
    config, _ = parse_and_check([*argv, "--batch_size_val", str(flag)], program="main_task_retrieval.py")
    clips: Any = Clips(size)
    loader = evaluation_loader(config, World(0, ranks, torch.device("cpu")), clips)
    assert loader.batch_size == batch
    assert not loader.persistent_workers
