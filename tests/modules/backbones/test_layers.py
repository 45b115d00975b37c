"""Layers of towers: their names, their order, and what lies before and between them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modules.backbones.layers import layers_of, towers_of
from modules.backbones.registry import build_backbone
from modules.backbones.request import Request
from modules.freezing import freeze
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder
from tests.modules.backbones.architectures import IMAGES, TEXTS, hf_model, with_encoder, write_config

LAYERS = {"CLIP": 2, "ResNet": 4, "ViT of timm": 12, "ConvNeXt": 12, "FastViT": 10}


def model_of(path: str, **request: Any) -> RetrievalModel:
    backbone = build_backbone(Request(path, **request))
    visual = VideoEncoder(
        backbone.image,
        embed_dim=backbone.embed_dim,
        use_temp=True,
        temporal_layers=1,
        preprocessing=backbone.preprocessing,
    )
    return RetrievalModel(visual, backbone.text, use_frame_fea=True)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_and_embeddings_of_image_towers(kind: str, tmp_path: Path) -> None:
    image = build_backbone(Request(write_config(tmp_path, (TEXTS | IMAGES)[kind]))).image
    ((embeddings, layers),) = towers_of(image)
    assert len(layers) == LAYERS[kind] == len(layers_of(copy.deepcopy(image)))
    assert embeddings and len({type(layer) for layer in layers}) <= 2
    order = {id(module): place for place, module in enumerate(image.modules())}
    assert [order[id(layer)] for layer in layers] == sorted(order[id(layer)] for layer in layers)


@pytest.mark.parametrize("kind", ["roberta", "mt5", "nllb", "bert"])
def test_encoders_of_transformers(kind: str, tmp_path: Path) -> None:
    text = build_backbone(Request(write_config(tmp_path, with_encoder(tmp_path, kind)))).text
    ((embeddings, layers),) = towers_of(text)
    assert len(layers) == 2 and embeddings


@pytest.mark.parametrize("kind", ["clip", "chinese_clip", "siglip", "metaclip_2"])
def test_models_of_transformers(kind: str, tmp_path: Path) -> None:
    hf_model(kind).config.save_pretrained(tmp_path)
    backbone = build_backbone(Request(str(tmp_path), "none"))
    for tower in (backbone.image, backbone.text):
        ((embeddings, layers),) = towers_of(tower)
        assert len(layers) == 2 and embeddings


def test_what_lies_between_frozen_layers_is_frozen_too(tmp_path: Path) -> None:
    """The change of width between two stages; the last norm still learns."""
    model = model_of(write_config(tmp_path, IMAGES["ConvNeXt"]))
    freeze(model, "image", 3)
    trunk: Any = model.visual_encoder.visual.trunk  # type: ignore[union-attr]
    frozen = {name for name, parameter in trunk.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"stem", "stages"}
    assert any("stages.1.downsample" in name for name in frozen)
    assert {name.split(".")[1] for name in frozen if name.startswith("stages")} == {"0", "1"}
    assert not any("stages.1.blocks.1" in name for name in frozen)


def test_batch_normalisation_keeps_its_statistics(tmp_path: Path) -> None:
    """Else a clip's features depended on the clips beside it, and ranks had different statistics."""
    torch.manual_seed(0)
    model = model_of(write_config(tmp_path, IMAGES["ResNet"])).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    size = model.visual_encoder.image_size
    frames = torch.randint(0, 256, (2, 1, 3, size, size), dtype=torch.uint8)
    before = {name: value.clone() for name, value in model.named_buffers()}
    both, _ = model.encode_video(frames)
    alone, _ = model.encode_video(frames[:1])
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
