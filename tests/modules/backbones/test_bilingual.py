"""A bilingual text encoder gives each text what the encoder of its language gives it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.backbones.bilingual import BilingualTextEncoder, encode_texts
from modules.backbones.text_encoder import ChineseTextEncoder, ClipTextEncoder
from modules.momentum import momentum_copy
from tests.device import DEVICE
from tests.modules import tiny

LANGUAGE = torch.tensor([1, 0, 0, 1, 0])


def batch() -> tuple[Tensor, Tensor]:
    found = tiny.batch(len(LANGUAGE))
    mask = found["text_mask"]
    mask[0, 4:] = mask[3, 5:] = 0
    return found["text_ids"].to(DEVICE), mask.to(DEVICE)


def of_one_language(encoder: Any, number: int, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    kind: Any = (ClipTextEncoder, ChineseTextEncoder)[number]
    result: tuple[Tensor, Tensor] = kind.forward(encoder, ids, mask)
    return result


def test_every_text_goes_through_the_encoder_of_its_language() -> None:
    encoder = tiny.bilingual_encoders()[1].eval()
    ids, mask = batch()
    texts, words = encoder(ids, mask, LANGUAGE)
    assert texts.shape == (5, 32) and words.shape == (5, tiny.WORDS, 32)
    for row, number in enumerate(LANGUAGE.tolist()):
        expected = of_one_language(encoder, number, ids[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(texts[row], expected[0][0])
        torch.testing.assert_close(words[row], expected[1][0])
        assert not torch.allclose(
            texts[row], of_one_language(encoder, 1 - number, ids[row : row + 1], mask[row : row + 1])[0][0]
        )


@pytest.mark.parametrize("number", [0, 1])
def test_in_training_a_batch_of_one_language_gives_all_weights_a_gradient(number: int) -> None:
    """Otherwise DistributedDataParallel would wait for those that another rank has."""
    encoder = tiny.bilingual_encoders()[1].train()
    ids, mask = batch()
    texts, words = encoder(ids, mask, torch.full((len(ids),), number))
    (texts.square().sum() + words.square().sum()).backward()
    gradients = {name: weight.grad for name, weight in encoder.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    used = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
    assert used and all(name.startswith(("chinese_encoder.", "text_proj.")) == bool(number) for name in used)
    expected = of_one_language(encoder, number, ids, mask)[0]
    torch.testing.assert_close(texts, expected)


def test_outside_of_training_only_the_needed_encoder_runs() -> None:
    encoder = tiny.bilingual_encoders()[1].eval()
    encoder.chinese_encoder.register_forward_pre_hook(lambda *_: pytest.fail("not needed"))
    encoder(*batch(), torch.zeros(5, dtype=torch.int64))


def test_the_weights_have_the_names_of_both_encoders() -> None:
    encoder = tiny.bilingual_encoders()[1]
    english = set(tiny.encoders()[1].state_dict())
    names = set(encoder.state_dict())
    assert english < names
    assert {name.split(".")[0] for name in names - english} == {"chinese_encoder", "text_proj"}
    assert set(momentum_copy(encoder).state_dict()) == names


def test_other_encoders_take_no_language() -> None:
    ids, mask = batch()
    english = tiny.encoders()[1]
    assert torch.equal(encode_texts(english, ids, mask, LANGUAGE)[0], english(ids, mask)[0])
    assert isinstance(tiny.bilingual_encoders()[1], BilingualTextEncoder)
