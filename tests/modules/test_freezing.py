"""--freeze: which parameters are frozen, and what cannot be frozen."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UserError
from engine.training.optimizer import parameter_groups
from modules.backbones.text_encoder import ChineseTextEncoder
from modules.dual_encoder import DualEncoder
from modules.freezing import freeze, nothing_learns
from modules.retrieval_model import RetrievalModel
from tests.device import DEVICE
from tests.modules import tiny

PARTS = {"image": "visual_encoder.visual.", "text": "text_encoder."}


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("part", PARTS)
def test_an_encoder(part: str) -> None:
    model = tiny.retrieval_model()
    freeze(model, part)
    assert frozen(model) == {name for name, _ in model.named_parameters() if name.startswith(PARTS[part])}


def test_the_temporal_transformer() -> None:
    model = tiny.retrieval_model()
    freeze(model, "temporal")
    temporal = {id(parameter) for parameter in model.visual_encoder.temporal_parameters()}  # type: ignore[operator]
    assert {id(p) for p in model.parameters() if not p.requires_grad} == temporal != set()


@pytest.mark.parametrize("part", PARTS)
def test_embeddings_and_the_first_layers(part: str) -> None:
    model = tiny.retrieval_model()
    encoder: Any = model.visual_encoder.visual if part == "image" else model.text_encoder
    encoder.transformer.resblocks.append(copy.deepcopy(encoder.transformer.resblocks[0]))
    freeze(model, part, 1)
    names = frozen(model)
    layers = {name for name, _ in model.named_parameters() if f"{PARTS[part]}transformer.resblocks." in name}
    assert {name.split(".resblocks.")[1][0] for name in layers} == {"0", "1"}
    assert names & layers == {name for name in layers if ".resblocks.0." in name}
    assert all(name.startswith(PARTS[part]) for name in names)
    first = {"image": "visual_encoder.visual.conv1.weight", "text": "text_encoder.token_embedding.weight"}
    assert first[part] in names
    freeze(model, part, 0)  # 0 layers: only the embeddings, which are frozen already
    assert frozen(model) == names


def test_all_layers_may_be_frozen_by_number() -> None:
    model = tiny.retrieval_model()
    visual: Any = model.visual_encoder.visual
    freeze(model, "image", len(visual.transformer.resblocks))
    assert not any(parameter.requires_grad for parameter in visual.transformer.resblocks.parameters())
    assert visual.ln_post.weight.requires_grad, "what follows the layers still learns"


def test_more_layers_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match=r"--freeze image:99: it has \d+ layers"):
        freeze(tiny.retrieval_model(), "image", 99)


def test_an_absent_temporal_transformer_is_refused() -> None:
    model = RetrievalModel(*tiny.encoders(use_temp=False), use_frame_fea=True)
    with pytest.raises(UserError, match="--freeze temporal: .*--use_temp"):
        freeze(model, "temporal")


@pytest.fixture
def chinese(tmp_path: Path) -> DualEncoder:
    from transformers import BertConfig

    small: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertConfig(vocab_size=99, max_position_embeddings=16, **small).save_pretrained(tmp_path)
    visual, _ = tiny.encoders()
    text = ChineseTextEncoder(tmp_path, embed_dim=visual.embed_dim, pretrained=False)
    return RetrievalModel(visual, text, use_frame_fea=True).to(DEVICE)


def test_the_chinese_encoder(chinese: DualEncoder) -> None:
    freeze(chinese, "text", 1)
    names = frozen(chinese)
    bert = "text_encoder.chinese_encoder"
    assert {name.split(".")[2] for name in names} == {"embeddings", "encoder"}
    assert {name.split(".")[4] for name in names if f"{bert}.encoder" in name} == {"0"}
    freeze(chinese, "text")
    assert frozen(chinese) == {name for name, _ in chinese.named_parameters() if name.startswith("text_enc")}


def test_frozen_parts_get_no_gradient_and_are_not_in_the_optimiser() -> None:
    model = tiny.pretrain_model()
    freeze(model, "image")
    model(tiny.batch(4, tags=True))["loss"].backward()
    trained = tiny.gradients(model)
    assert trained and not any(".visual." in name for name in trained)
    assert set(trained) == {name for name, p in model.named_parameters() if p.requires_grad}
    groups = parameter_groups(model, lr=1.0, text_lr=1.0, coef_lr=1.0, weight_decay=0.1)
    assert not any(group["name"].startswith("image tower") for group in groups)
    assert sum(len(group["params"]) for group in groups) == len(trained)


def test_momentum_encoders_are_still_updated() -> None:
    model = tiny.pretrain_model()
    freeze(model, "image")
    query: Any = model.visual_encoder
    key: Any = model.visual_encoder_k
    pair = query.visual.conv1.weight, key.visual.conv1.weight
    before = (pair[1] - pair[0]).abs().max()
    model(tiny.batch(4, tags=True))
    torch.testing.assert_close((pair[1] - pair[0]).abs().max(), 0.99 * before)


def test_nothing_learns_when_everything_is_frozen() -> None:
    model = RetrievalModel(*tiny.encoders(use_temp=False), use_frame_fea=True)
    assert not nothing_learns(model.parameters())
    freeze(model, "image")
    freeze(model, "text")
    assert nothing_learns(model.parameters())
