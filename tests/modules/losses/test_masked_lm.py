from __future__ import annotations

import torch
import torch.nn.functional as F

from modules.losses.masked_lm import MaskedLMHead, masked_lm_loss


def test_mean_over_the_masked_words_only() -> None:
    logits = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 5), -100)
    labels[0, 1], labels[1, 3] = 4, 9
    expected = F.cross_entropy(torch.stack([logits[0, 1], logits[1, 3]]), torch.tensor([4, 9]))
    assert torch.allclose(masked_lm_loss(logits, labels), expected)


def test_nothing_masked_is_zero_with_zero_gradient() -> None:
    head = MaskedLMHead(8, vocab_size=11)
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
    head = MaskedLMHead(8, vocab_size=11)
    assert {"bias", "decoder.bias"} <= set(head.state_dict())
    assert len(list(head.parameters())) == 6
    state = {**head.state_dict(), "bias": torch.zeros(11), "decoder.bias": torch.ones(11)}
    head.load_state_dict(state)
    assert head.bias is head.decoder.bias
    assert head.bias.detach().tolist() == [1.0] * 11
