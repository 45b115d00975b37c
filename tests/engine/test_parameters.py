"""Parameters and operations of each part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.parameters import parameter_table, parts_of, save_parameters
from modules.backbones.clip_towers import build_clip, clip_embed_dim
from modules.backbones.text_encoder import ClipTextEncoder
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder
from tests.modules import tiny


def test_the_published_model_has_the_known_costs_of_its_towers() -> None:
    """ViT-B/32 at 224 pixels: 4.4 G multiply-adds an image (Dosovitskiy et al. give 8.8 GFLOPs)."""
    with torch.device("meta"):
        clip = build_clip("ViT-B-32-quickgelu")
        visual = VideoEncoder(clip.visual, embed_dim=clip_embed_dim(clip), use_temp=True)
        model = RetrievalModel(visual, ClipTextEncoder(clip), use_frame_fea=True)
    model.to_empty(device="cpu")  # whatever lies in memory: values do not matter
    parts = {part.name: part for part in parts_of(model, frames=2, words=32)}
    assert parts["image tower"].flops == pytest.approx(2 * 8.82e9, rel=0.01)
    assert parts["image tower"].parameters == 87_849_216
    layer = 2 * 32 * 12 * 512 * 512 + 2 * 2 * 32 * 32 * 512  # projections and MLP; scores and values
    assert parts["text encoder"].flops == pytest.approx(12 * layer + 2 * 32 * 512 * 512, rel=1e-3)
    temporal = 2 * 2 * 12 * 512 * 512 + 2 * 2 * 2 * 2 * 512
    assert parts["temporal transformer"].flops == pytest.approx(4 * temporal, rel=0.01)


def test_pretraining_counts_momentum_copies_and_the_rest_of_its_step(tmp_path: Path) -> None:
    model = tiny.pretrain_model()
    parts = {part.name: part for part in parts_of(model, frames=tiny.FRAMES, words=tiny.WORDS)}
    copies = parts["momentum encoders"]
    assert copies.parameters > parts["image tower"].parameters and copies.trainable == 0
    encoders = sum(parts[n].flops or 0 for n in ("image tower", "text encoder", "temporal transformer"))
    beyond = parts["training beyond the encoders, forward"].flops
    assert beyond is not None and beyond > encoders  # the key encoders alone cost as much as the encoders
    lines = parameter_table(list(parts.values()), frames=4, words=7)
    assert lines[-1].startswith("total: ") and "trainable" in lines[-1] and "GFLOPs" in lines[-1]
    save_parameters(list(parts.values()), tmp_path / "parameters.json", frames=4, words=7)
    saved = json.loads((tmp_path / "parameters.json").read_text(encoding="utf-8"))
    assert saved["parts"][-1]["parameters"] == sum(p.numel() for p in model.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["parameters.json"]
