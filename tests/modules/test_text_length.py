"""Texts of more tokens than a tower was trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from modules.backbones.backbone import Backbone
from modules.backbones.registry import build_backbone, with_bert
from modules.backbones.request import Request
from modules.text_length import extend_context
from tests.modules.backbones.architectures import TEXTS, VOCAB, WORDS, hf_model, write_config, write_encoder

LONG = 30


def built(kind: str, folder: Path) -> Backbone:
    return build_backbone(Request(write_config(folder, TEXTS[kind]), "none"))


def short_and_long_texts(backbone: Backbone) -> None:
    """A short text keeps its features, and a long one is read to its end."""
    generator = torch.Generator().manual_seed(0)
    short = torch.randint(4, VOCAB - 1, (2, WORDS - 2), generator=generator)
    short[:, -1] = VOCAB - 1
    with torch.no_grad():
        before = backbone.text.eval()(short)[0]
        longer = extend_context(backbone, LONG)
        assert longer.context_length == LONG and longer.text is backbone.text
        torch.testing.assert_close(longer.text(short)[0], before)
        ids = torch.randint(4, VOCAB - 1, (2, LONG), generator=generator)
        ids[:, -1] = VOCAB - 1
        ids[1, :-1] = ids[0, :-1]
        ids[1, LONG - 3] = (ids[0, LONG - 3] + 1 - 4) % (VOCAB - 5) + 4
        features, words = longer.text(ids)
    assert words.shape[1] == LONG
    torch.testing.assert_close(words[0, : LONG - 3], words[1, : LONG - 3])  # no token sees a later one
    assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize("kind", ["CLIP", "no projection"])
def test_text_towers_of_open_clip(kind: str, tmp_path: Path) -> None:
    short_and_long_texts(built(kind, tmp_path))


def test_text_towers_of_transformers(tmp_path: Path) -> None:
    hf_model("clip").save_pretrained(tmp_path)
    short_and_long_texts(build_backbone(Request(str(tmp_path), "none")))


@pytest.mark.parametrize("kind", ["SigLIP", "CoCa", "MobileCLIP"])
def test_towers_that_read_padding_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--max_words {LONG}: the text encoder takes at most {WORDS} tokens"):
        extend_context(built(kind, tmp_path), LONG)


def test_bert_is_not_extended(tmp_path: Path) -> None:
    bert = with_bert(built("CLIP", tmp_path), write_encoder(tmp_path, "bert"), pretrained=False)
    limit = bert.context_length
    with pytest.raises(UserError, match=f"the text encoder takes at most {limit} tokens"):
        extend_context(bert, limit + 1)
