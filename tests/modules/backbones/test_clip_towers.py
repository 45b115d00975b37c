from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from modules.backbones.clip_towers import (
    CONFIG_FOLDER,
    build_clip,
    clip_config,
    clip_embed_dim,
    clip_image_size,
    fixed_logit_scale,
)
from modules.backbones.text_encoder import ClipTextEncoder
from modules.video_encoder import VideoEncoder
from tests.device import DEVICE
from tests.modules import tiny


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_own_configuration_runs(path: Path) -> None:
    clip: Any = build_clip(path.stem).to(DEVICE)
    width, size = clip_embed_dim(clip), clip_image_size(clip)
    visual = VideoEncoder(clip.visual, embed_dim=width, use_temp=True).to(DEVICE)
    with torch.no_grad():
        video, _ = visual(torch.zeros(1, 2, 3, size, size, dtype=torch.uint8))
        text, _ = ClipTextEncoder(clip)(torch.ones(1, 8, dtype=torch.long))
    assert video.shape == text.shape == (1, width)
    assert torch.isfinite(video).all() and torch.isfinite(text).all()


def test_the_default_architecture_is_known() -> None:
    config = clip_config("ViT-B-32-quickgelu")
    assert config["quick_gelu"] and config["embed_dim"] == 512


def test_random_weights_are_float32_with_a_scale_of_100() -> None:
    clip = build_clip(tiny.CLIP_CONFIG)
    assert {p.dtype for p in clip.parameters()} == {torch.float32}
    assert fixed_logit_scale(clip) == pytest.approx(100.0)
    with torch.no_grad():
        clip.logit_scale.fill_(10.0)  # type: ignore[union-attr,operator]
        assert fixed_logit_scale(clip) == 100.0
        clip.logit_scale.fill_(0.0)  # type: ignore[union-attr,operator]
        assert fixed_logit_scale(clip) == 1.0


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(UserError, match=r"'ViT-B-32-quickgelo' is unknown.*ViT-B-32-quickgelu"):
        build_clip("ViT-B-32-quickgelo")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a JSON file"),
        (json.dumps({"embed_dim": 8}), "vision_cfg, text_cfg missing"),
        (
            json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": "x"}),
            "text_cfg missing or of another type",
        ),
        ("[]", "embed_dim, vision_cfg, text_cfg missing"),
        (
            json.dumps({"embed_dim": 8, "vision_cfg": {"colour": 1}, "text_cfg": {}}),
            "open_clip's form.*colour",
        ),
        (json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"hf_model_name": "x"}}), "hf_model_name"),
        (json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"pool_type": "most"}}), "pool_type"),
    ],
)
def test_a_bad_configuration_file_is_named(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"mine\.json.*{reason}"):
        build_clip(str(path))


def test_an_absent_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.json': no such file"):
        build_clip(str(tmp_path / "absent.json"))
