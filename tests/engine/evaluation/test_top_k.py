"""The top ten of each query, updated by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.distributed.world import World
from engine.evaluation import top_k
from engine.evaluation.top_k import TopK
from tests.device import DEVICE


def top_of_three_queries() -> TopK:
    return TopK(3, device=DEVICE, dtype=torch.float64)


def test_a_tile_changes_only_its_own_queries() -> None:
    top = top_of_three_queries()
    top.update(torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64), torch.tensor([4, 5, 6]), first=1)
    ids, scores = top.numpy()
    assert ids.tolist() == [[-1] * 10, [5, 6, 4] + [-1] * 7, [-1] * 10]
    assert scores[1].tolist() == [3.0, 2.0, 1.0] + [-np.inf] * 7
    assert (scores[[0, 2]] == -np.inf).all()
    assert ids.dtype == np.int64 and scores.dtype == np.float32


def test_of_tied_candidates_the_first_ten_stay_and_only_better_ones_move_up() -> None:
    top = top_of_three_queries()
    for start in range(0, 12, 4):  # twelve candidates with equal scores
        top.update(torch.ones(3, 4, dtype=torch.float64), torch.arange(start, start + 4))
    assert top.numpy()[0].tolist() == [list(range(10))] * 3
    better = torch.tensor([[0.5], [1.5], [1.0]], dtype=torch.float64)
    top.update(better, torch.tensor([12]))
    ids, scores = top.numpy()
    assert ids.tolist() == [list(range(10)), [12, *range(9)], list(range(10))]
    assert scores[1].tolist() == [1.5] + [1.0] * 9


def test_scores_that_differ_only_in_float64_do_not_tie() -> None:
    top = top_of_three_queries()
    scores = torch.tensor([[1.0, 1.0 + 1e-12]] * 3, dtype=torch.float64)
    top.update(scores[:, :1], torch.tensor([0]))
    top.update(scores[:, 1:], torch.tensor([1]))
    assert top.numpy()[0][:, :2].tolist() == [[1, 0]] * 3


def test_a_candidate_between_the_ninth_and_the_tenth_replaces_the_tenth() -> None:
    top = top_of_three_queries()
    top.update(torch.arange(10.0, 0.0, -1.0, dtype=torch.float64).expand(3, -1), torch.arange(10))
    top.update(torch.full((3, 1), 1.5, dtype=torch.float64), torch.tensor([10]))
    assert top.numpy()[0].tolist() == [[*range(9), 10]] * 3


class _OtherRankFirst(World):
    """The second of two ranks; the first one has the candidates of `first`."""

    first: TopK

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        other = self.first.scores if rows.is_floating_point() else self.first.ids
        return torch.cat([other[None], rows])


def test_the_top_ten_of_two_ranks() -> None:
    first, second = top_of_three_queries(), top_of_three_queries()
    first.update(torch.tensor([[3.0, 1.0]] * 3, dtype=torch.float64), torch.tensor([0, 1]))
    scores = torch.tensor([[2.0, 0.0], [3.0, 1.0], [5.0, 4.0]], dtype=torch.float64)
    second.update(scores, torch.tensor([2, 3]))
    world = _OtherRankFirst(1, 2, DEVICE)
    object.__setattr__(world, "first", first)
    second.merge_ranks(world)
    ids, merged = second.numpy()
    assert ids[:, :4].tolist() == [[0, 2, 1, 3], [0, 2, 1, 3], [2, 3, 0, 1]]
    assert merged[:, :4].tolist() == [[3, 2, 1, 0], [3, 3, 1, 1], [5, 4, 3, 1]]
    assert ids.shape == merged.shape == (3, 10) and (ids[:, 4:] == -1).all()


@pytest.mark.parametrize("values", [3, 50, 10**6])
@pytest.mark.parametrize("candidates", [1, 9, 10, 200])
def test_passes_take_what_a_stable_sort_takes(candidates: int, values: int) -> None:
    """With many ties, some and none."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(values, (40, candidates), generator=draw).float()
    ids = torch.arange(7, 7 + candidates).expand(40, -1)
    best, numbers = top_k.top_in_passes(scores.clone(), ids)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best, expected.values[:, :10])
    assert torch.equal(numbers, ids.gather(1, expected.indices[:, :10]))


@pytest.mark.parametrize("in_passes", [True, False])
def test_a_candidate_that_ranks_last_is_never_among_the_best(in_passes: bool) -> None:
    """Post-processing gives it -inf, which leaves its place empty."""
    top = top_of_three_queries()
    top.in_passes = in_passes
    scores = torch.full((3, 12), -torch.inf, dtype=torch.float64)
    scores[0, 4], scores[1, [2, 5]] = 1.0, torch.tensor(2.0, dtype=torch.float64)
    top.update(scores, torch.arange(12))
    assert top.numpy()[0].tolist() == [[4] + [-1] * 9, [2, 5] + [-1] * 8, [-1] * 10]
