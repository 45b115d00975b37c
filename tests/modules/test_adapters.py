"""Adapters on the towers: what learns, what they compute, and the checkpoint of a model with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from engine.training.optimizer import parameter_groups
from engine.training.saved_weights import SavedWeights
from modules import adapters
from modules.adapters import AdapterNames, add_adapters
from modules.backbones.backbone import Backbone
from modules.backbones.registry import build_backbone
from modules.backbones.request import Request
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder
from tests.device import DEVICE
from tests.modules import tiny
from tests.modules.backbones.architectures import (
    ENCODERS,
    HF_MODELS,
    IMAGES,
    TEXTS,
    hf_model,
    with_encoder,
    write_config,
)
from tests.modules.test_grad_checkpointing import chinese


@pytest.fixture
def model() -> RetrievalModel:
    """With adapters that are not at their start, where they do nothing."""
    model = tiny.retrieval_model().cpu()
    assert add_adapters(model, rank=2) == 8  # in_proj, out_proj and two of the MLP, in each tower
    change(model)
    return model.to(DEVICE)


def change(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def merged(model: nn.Module) -> dict[str, Tensor]:
    names = AdapterNames.of(model)
    assert names is not None
    return names.merge(model.state_dict())


def test_a_new_adapter_changes_nothing() -> None:
    plain, adapted = tiny.retrieval_model().cpu(), tiny.retrieval_model().cpu()
    before = plain(batch := {n: v.cpu() for n, v in tiny.batch().items()})
    add_adapters(adapted, rank=3)
    torch.testing.assert_close(adapted(batch)["loss"], before["loss"], rtol=1e-6, atol=0.0)
    published = plain.state_dict()
    start = merged(adapted)
    assert start.keys() == published.keys()
    assert all(torch.equal(value, published[name]) for name, value in start.items())


def test_only_adapters_and_what_is_new_learn(model: RetrievalModel) -> None:
    names = trained(model)
    towers = {name for name in names if name.startswith(("visual_encoder.visual.", "text_encoder."))}
    assert towers and all(".lora_A." in name or ".lora_B." in name for name in towers)
    assert {name for name in names if "temporal_transformer" in name}
    model(tiny.batch())["loss"].backward()
    assert set(tiny.gradients(model)) == names  # DDP waits for each of them
    assert all(gradient.any() for name, gradient in tiny.gradients(model).items() if ".lora_" in name)
    groups = parameter_groups(model, lr=1e-3, text_lr=1e-7, coef_lr=1e-3, weight_decay=0.1)
    assert {group["name"]: group["lr"] for group in groups if group["name"] != "rest, no decay"} == {
        "rest": 1e-3,
        "adapters": 1e-3,
    }


def test_one_tower() -> None:
    model = tiny.retrieval_model().cpu()
    assert add_adapters(model, rank=2, towers=("text",)) == 4
    names = {name for name in trained(model) if not name.startswith("visual_encoder.temporal_transformer")}
    assert names - {"visual_encoder.frame_position_embeddings.weight"} == {
        name for name in model.state_dict() if ".lora_" in name and name.startswith("text_encoder.")
    }


def test_the_checkpoint_computes_the_same_without_adapters(model: RetrievalModel) -> None:
    plain = tiny.retrieval_model()
    plain.load_state_dict(merged(model))
    batch = tiny.batch()
    torch.testing.assert_close(model(batch)["loss"], plain(batch)["loss"], rtol=1e-5, atol=0.0)
    assert not torch.allclose(model(batch)["loss"], tiny.retrieval_model()(batch)["loss"])
    ours = merged(model)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.merge()  # peft's own
    theirs = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}
    theirs = {name.replace("attn.in_proj.", "attn.in_proj_"): value for name, value in theirs.items()}
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-6, atol=1e-7)


def test_saved_restored_and_loaded_for_an_evaluation(model: RetrievalModel) -> None:
    weights = SavedWeights(model, ema=0.9)
    weights.after_step()
    contents = weights.contents(keep=True)
    assert contents["model"].keys() == tiny.retrieval_model().state_dict().keys()
    other = tiny.retrieval_model().cpu()
    other.load_state_dict(contents["model"])  # as a resumed run builds its model
    add_adapters(other, rank=2)
    restored = SavedWeights(other.to(DEVICE), ema=0.9)
    restored.restore(contents)
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert weights.contents(keep=False) == {"model": {}, "lora": {}, "ema": {}}


def test_an_earlier_checkpoint_is_loaded_for_its_evaluation(model: RetrievalModel, tmp_path: Path) -> None:
    weights, batch = SavedWeights(model), tiny.batch()
    expected = model(batch)["loss"].detach()
    torch.save(weights.checkpoint(keep=True), tmp_path / "pytorch_model.bin.0")
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data.mul_(3.0)
    assert not torch.allclose(model(batch)["loss"], expected)
    weights.load_checkpoint(tmp_path / "pytorch_model.bin.0")
    torch.testing.assert_close(model(batch)["loss"].detach(), expected, rtol=1e-5, atol=0.0)


def test_a_bert_learns_its_projection_too(tmp_path: Path) -> None:
    model: Any = chinese(tmp_path)
    model = RetrievalModel(model.visual_encoder, model.text_encoder, use_frame_fea=True).cpu().train()
    published = set(model.state_dict())
    assert add_adapters(model, rank=2, towers=("text",)) > 0
    text = {name for name in trained(model) if name.startswith("text_encoder.")}
    assert {name for name in text if ".lora_" not in name} == {
        "text_encoder.text_proj.weight",
        "text_encoder.text_proj.bias",
    }
    assert any(".query.lora_A." in name for name in text) and set(merged(model)) == published


class ReadsItsWeights(nn.Module):
    """Attention as some libraries write it: a linear layer that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.called(values @ self.read.weight)
        return result


def test_layers_that_are_not_called_get_no_adapter() -> None:
    tower = nn.Sequential(ReadsItsWeights(), ReadsItsWeights())
    found = adapters._linear_layers(tower, lambda: tower(torch.zeros(1, 4, device="cpu")))
    assert found == ["0.called", "1.called"] and tower.training


def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.retrieval_model().cpu()
    monkeypatch.setattr(adapters, "_linear_layers", lambda tower, call: [])
    with pytest.raises(UserError, match="--lora: the image tower has no linear layers.*--lora_on text"):
        add_adapters(model, rank=2)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="--lora: needs the package peft .*pip install -U peft"):
        add_adapters(model, rank=2)


CONVOLUTIONS = ("ResNet", "ConvNeXt", "FastViT")
KINDS = (*TEXTS, *(kind for kind in IMAGES if kind not in CONVOLUTIONS), *ENCODERS, *HF_MODELS)


def backbone_of(kind: str, folder: Path) -> Backbone:
    """A small backbone of every kind of tower, with random weights."""
    if kind in HF_MODELS:
        hf_model(kind).save_pretrained(folder)
        return build_backbone(Request(str(folder), "openai"))
    config = with_encoder(folder, kind) if kind in ENCODERS else {**TEXTS, **IMAGES}[kind]
    return build_backbone(Request(write_config(folder, config)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tower_learns_through_adapters(kind: str, tmp_path: Path) -> None:
    """Every adapter has a gradient, and the checkpoint has the names of a model without adapters."""
    backbone = backbone_of(kind, tmp_path)
    visual = VideoEncoder(
        backbone.image,
        embed_dim=backbone.embed_dim,
        use_temp=False,
        preprocessing=backbone.preprocessing,
    )
    model = RetrievalModel(visual, backbone.text, use_frame_fea=False).cpu().train()
    published = {name: value.clone() for name, value in model.state_dict().items()}
    count = add_adapters(model, rank=2)
    size, ids = visual.image_size, torch.randint(4, 60, (2, 6), device="cpu")
    frames = torch.randint(0, 256, (2, 1, 3, size, size), dtype=torch.uint8, device="cpu")
    batch = {"frames": frames, "text_ids": ids, "text_mask": torch.ones_like(ids)}
    assert {name: value.shape for name, value in merged(model).items()} == {
        name: value.shape for name, value in published.items()
    }
    assert all(torch.equal(value, published[name]) for name, value in merged(model).items())
    change(model)
    model(batch)["loss"].backward()
    learned = tiny.gradients(model)
    assert set(learned) == trained(model) and len(learned) == 2 * count
    assert all(gradient.any() for gradient in learned.values())


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_tower_without_linear_layers_is_named(kind: str, tmp_path: Path) -> None:
    backbone = backbone_of(kind, tmp_path)
    visual = VideoEncoder(
        backbone.image,
        embed_dim=backbone.embed_dim,
        use_temp=False,
        preprocessing=backbone.preprocessing,
    )
    model = RetrievalModel(visual, backbone.text, use_frame_fea=False).cpu()
    with pytest.raises(UserError, match="--lora: the image tower has no linear layers.*--lora_on text"):
        add_adapters(model, rank=2)
    assert add_adapters(model, rank=2, towers=("text",)) == 8
