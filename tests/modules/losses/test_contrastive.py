from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from modules.losses import contrastive
from modules.losses.contrastive import (
    BatchKeys,
    in_batch_cross_entropy,
    negative_logsumexp,
    queue_cross_entropy,
)


def test_in_batch_is_both_directions_of_softmax() -> None:
    similarity = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    rows = -similarity.log_softmax(1).diagonal().mean()
    columns = -similarity.log_softmax(0).diagonal().mean()
    assert torch.allclose(in_batch_cross_entropy(similarity), rows + columns)


def test_queue_loss_is_the_cross_entropy_of_the_positive_key() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(3, 8, generator=draw), torch.randn(3, 8, generator=draw)
    queue = F.normalize(torch.randn(8, 5, generator=draw), dim=0)
    x, y = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    logits = torch.cat([(x * y).sum(1, keepdim=True), x @ queue], dim=1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(3, dtype=torch.long), reduction="none")
    negatives = negative_logsumexp(queries, queue, temperature=0.07)
    assert torch.allclose(
        queue_cross_entropy(queries, keys, negatives, temperature=0.07), expected, atol=1e-5
    )


def test_columns_of_zeros_are_not_negatives() -> None:
    draw = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 8, generator=draw)
    queue = F.normalize(torch.randn(8, 5, generator=draw), dim=0)
    with_holes = torch.cat([queue, torch.zeros(8, 4)], dim=1)
    full = negative_logsumexp(queries, queue, temperature=0.07)
    assert torch.allclose(negative_logsumexp(queries, with_holes, temperature=0.07), full)


def test_an_empty_queue_and_a_zero_query_give_finite_losses_and_gradients() -> None:
    queries = torch.zeros(2, 8)
    queries[0, 0] = 1.0
    queries.requires_grad_(True)
    negatives = negative_logsumexp(queries, torch.zeros(8, 4), temperature=0.07)
    loss = queue_cross_entropy(queries, torch.ones(2, 8), negatives, temperature=0.07)
    loss.sum().backward()
    assert loss.detach().tolist() == [0.0, 0.0]
    assert queries.grad is not None and torch.isfinite(queries.grad).all()


def test_in_batch_negatives_are_the_keys_of_the_other_clips() -> None:
    """The loss is that of `F.cross_entropy` on the similarity matrix of the batch."""
    torch.manual_seed(3)
    queries, keys = torch.randn(4, 8), torch.randn(4, 8)
    negatives = negative_logsumexp(queries, BatchKeys.of(keys), temperature=0.07)
    loss = queue_cross_entropy(queries, keys, negatives, temperature=0.07)
    similarity = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T / 0.07
    torch.testing.assert_close(loss, F.cross_entropy(similarity, torch.arange(4), reduction="none"))


def test_frames_of_the_same_clip_are_not_in_batch_negatives() -> None:
    torch.manual_seed(4)
    queries, keys = torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    negatives = negative_logsumexp(queries, BatchKeys.of(keys), temperature=0.1)
    others = F.normalize(keys[1:], dim=-1).flatten(0, 1)
    expected = (F.normalize(queries[0], dim=-1) @ others.T / 0.1).logsumexp(dim=-1)
    torch.testing.assert_close(negatives[0], expected)
    texts = negative_logsumexp(queries[:, 0], BatchKeys.of(keys), temperature=0.1)
    torch.testing.assert_close(texts[0], expected[0])


def test_a_batch_of_one_clip_has_no_in_batch_negatives() -> None:
    queries = torch.randn(1, 8)
    negatives = negative_logsumexp(queries, BatchKeys.of(torch.randn(1, 8)), temperature=0.07)
    assert queue_cross_entropy(queries, queries, negatives, temperature=0.07).item() == 0.0


def test_a_rank_excludes_its_own_clips_among_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rank: the keys of the first come before its own."""
    other = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(contrastive, "rank", lambda: 1)
    monkeypatch.setattr(contrastive, "gather", lambda rows: torch.cat([F.normalize(other, dim=-1), rows]))
    keys = 5 * torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(6))
    negatives = BatchKeys.of(keys)
    own = torch.arange(12) // 3
    assert negatives.excluded.tolist() == [(own == 2).tolist(), (own == 3).tolist()]
    torch.testing.assert_close(negatives.keys, F.normalize(torch.cat([other, keys]), dim=-1).flatten(0, 1).T)
    assert negatives.keys.is_contiguous()
    duplicate = torch.zeros(2, 4, dtype=torch.bool)
    duplicate[0, 1] = True
    masked = negatives.mask_duplicates(duplicate)
    assert masked.excluded.tolist() == [((own == 2) | (own == 1)).tolist(), (own == 3).tolist()]
    assert torch.equal(masked.keys, negatives.keys)
    assert negatives.mask_duplicates(None) is negatives


def test_the_temperature_divides_cosines() -> None:
    """In numbers: one query, two keys with cosines 1 and 0.6, positive 0.8."""
    query, queue = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    negatives = negative_logsumexp(query, queue, temperature=0.5)
    expected = math.log(math.exp(2.0) + math.exp(1.2))
    assert negatives.tolist() == pytest.approx([expected])
    loss = queue_cross_entropy(query, torch.tensor([[4.0, 3.0]]), negatives, temperature=0.5)
    assert loss.tolist() == pytest.approx([math.log(math.exp(1.6) + math.exp(expected)) - 1.6])
