"""--image_size and --patch_dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from modules.backbones.image_size import interpolate_positions
from modules.backbones.registry import build_backbone
from modules.backbones.request import Request
from modules.video_encoder import VideoEncoder
from tests.modules.backbones.architectures import IMAGES, TEXTS, hf_model, write_config

SIZES = {"CLIP": 48, "ResNet": 64, "ViT of timm": 256, "ConvNeXt": 96, "FastViT": 64}


@pytest.mark.parametrize("kind", SIZES)
@torch.no_grad()
def test_towers_take_another_size(kind: str, tmp_path: Path) -> None:
    size = SIZES[kind]
    path = write_config(tmp_path, (TEXTS | IMAGES)[kind])
    backbone = build_backbone(Request(path, image_size=size))
    assert backbone.preprocessing.size == size
    assert backbone.image.eval()(torch.randn(1, 3, size, size)).shape == (1, backbone.embed_dim)
    encoder = VideoEncoder(backbone.image, embed_dim=16, use_temp=False, preprocessing=backbone.preprocessing)
    assert encoder.image_size == size


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_so_do_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = hf_model(kind)
    theirs.save_pretrained(tmp_path)
    image: Any = build_backbone(Request(str(tmp_path), "openai", image_size=64)).image.eval()
    assert image(torch.randn(1, 3, 64, 64)).shape[0] == 1
    positions = theirs.vision_model.embeddings.position_embedding.weight
    expected = interpolate_positions(positions, (4, 4))
    assert torch.equal(image.vision_model.embeddings.position_embedding.weight, expected)
    assert len(expected) == 16 + (kind == "clip")


def test_positions_are_interpolated_as_in_open_clip() -> None:
    from types import SimpleNamespace

    from open_clip.model import resize_pos_embed

    positions = torch.randn(1 + 9, 6)
    state = {"visual.positional_embedding": positions.clone()}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(5, 5))))
    ours = interpolate_positions(positions, (5, 5))
    torch.testing.assert_close(ours, state["visual.positional_embedding"])
    assert interpolate_positions(positions, (3, 3)) is positions


def test_an_impossible_size_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = write_config(tmp_path, TEXTS["CLIP"])
    with pytest.raises(UserError, match=r"--image_size 50: .* takes multiples of 16; give 48"):
        build_backbone(Request(path, image_size=50))


@pytest.mark.parametrize("kind", ["CLIP", "ViT of timm"])
def test_patches_are_left_out_while_training_only(kind: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, (TEXTS | IMAGES)[kind])
    image = build_backbone(Request(path, patch_dropout=0.5)).image
    size = 32 if kind == "CLIP" else 224
    pixels = torch.randn(1, 3, size, size)
    torch.manual_seed(0)
    first, second = image.train()(pixels), image(pixels)
    assert not torch.equal(first, second)
    assert torch.equal(image.eval()(pixels), image(pixels))


def test_a_tower_without_patches_has_no_patch_dropout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--patch_dropout: .*patch_drop"):
        build_backbone(Request(write_config(tmp_path, IMAGES["ConvNeXt"]), patch_dropout=0.5))
    with pytest.raises(UserError, match="--patch_dropout: .* it has no patches"):
        build_backbone(Request(write_config(tmp_path, IMAGES["ResNet"]), patch_dropout=0.5))
