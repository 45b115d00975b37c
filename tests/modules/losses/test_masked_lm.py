from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modules.losses import masked_lm
from modules.losses.masked_lm import MaskedLMHead, masked_lm_loss
from tests.device import DEVICE


def test_mean_over_the_masked_words_only() -> None:
    logits = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 5), -100)
    labels[0, 1], labels[1, 3] = 4, 9
    expected = F.cross_entropy(torch.stack([logits[0, 1], logits[1, 3]]), torch.tensor([4, 9]))
    assert torch.allclose(masked_lm_loss(logits, labels), expected)


def test_nothing_masked_is_zero_with_zero_gradient() -> None:
    head = MaskedLMHead(8, vocab_size=11).to(DEVICE)
    for hidden, labels in (
        (torch.randn(0, 8), torch.zeros(0, dtype=torch.long)),
        (torch.randn(3, 8), torch.full((3,), -100)),
    ):
        head.zero_grad()
        loss = masked_lm_loss(head(hidden), labels)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_both_names_of_the_bias_are_one_tensor_also_after_loading() -> None:
    head = MaskedLMHead(8, vocab_size=11).to(DEVICE)
    assert {"bias", "decoder.bias"} <= set(head.state_dict())
    assert len(list(head.parameters())) == 6
    state = {**head.state_dict(), "bias": torch.zeros(11), "decoder.bias": torch.ones(11)}
    head.load_state_dict(state)
    assert head.bias is head.decoder.bias
    assert head.bias.detach().tolist() == [1.0] * 11


def test_the_head_is_that_of_bert() -> None:
    """Linear, GELU, LayerNorm, Linear; written out in float64. Weights start at a deviation of 0.02."""
    torch.manual_seed(0)
    head = MaskedLMHead(64, vocab_size=100).to(DEVICE)
    for layer in (head.transform.dense, head.decoder):
        assert abs(float(layer.weight.detach().std()) - 0.02) < 0.001 and not layer.bias.detach().any()
    head = head.double()
    for parameter in head.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    hidden = 1e-4 * torch.randn(3, 64, dtype=torch.float64)
    head.transform.dense.bias.data.zero_()  # inputs of the norm are so small that its eps counts
    x = hidden @ head.transform.dense.weight.T
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-12).sqrt()
    x = x * head.transform.LayerNorm.weight + head.transform.LayerNorm.bias
    torch.testing.assert_close(head(hidden), x @ head.decoder.weight.T + head.decoder.bias)


def test_logits_in_half_precision_give_a_loss_in_float32() -> None:
    logits = torch.randn(4, 11, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([1, -100, 3, 4])
    loss = masked_lm_loss(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float()[labels >= 0], labels[labels >= 0]))


def test_a_single_masked_word_is_the_whole_mean() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, 1.0]] * 2), torch.tensor([-100, 2])
    assert torch.allclose(masked_lm_loss(logits, labels), F.cross_entropy(logits[1:], labels[1:]))


def test_the_share_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """One masked word here and three on the other rank: both shares average to the mean of all four."""
    monkeypatch.setattr(masked_lm, "world_size", lambda: 2)
    monkeypatch.setattr(masked_lm, "sum_over_ranks", lambda count: count + 3)
    logits, labels = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([1])
    assert torch.allclose(masked_lm_loss(logits, labels), 2 * F.cross_entropy(logits, labels) / 4)
