"""Backbones of open_clip: CLIP, SigLIP, EVA-CLIP, MetaCLIP, PE, MobileCLIP, ... by name or JSON file."""

from __future__ import annotations

from typing import Any

from modules.backbones.backbone import Backbone
from modules.backbones.clip_configs import (
    DEFAULT_POSITION_STD,
    clip_config,
    languages_of,
    preprocessing_of,
)
from modules.backbones.clip_towers import (
    build_towers,
    clip_image_size,
    logit_bias_of,
    logit_scale_of,
    text_tower,
)
from modules.backbones.clip_weights import load_clip_weights
from modules.backbones.request import Request
from modules.backbones.text_encoder import ClipTextEncoder
from modules.backbones.tokenizers import ClipTokenizer


def build_open_clip(request: Request) -> Backbone:
    """The backbone of an open_clip name or of a JSON file in open_clip's form."""
    config = clip_config(request.name)
    clip: Any = build_towers(request.name, config)
    if request.pretrained:
        load_clip_weights(
            clip,
            request.weights,
            name=request.name,
            cache_dir=request.cache_dir,
            allow_download=request.allow_download,
        )
    text = ClipTextEncoder(text_tower(clip))
    return Backbone(
        name=request.name,
        text_name=f"--clip_model {request.name}",
        image=clip.visual,
        text=text,
        tokenizer=_tokenizer,
        preprocessing=preprocessing_of(
            request.name, config, weights=request.weights, size=clip_image_size(clip)
        ),
        embed_dim=int(config["embed_dim"]),
        vocab_size=text.vocab_size,
        context_length=text.context_length,
        languages=languages_of(config),
        logit_scale=logit_scale_of(clip),
        logit_bias=logit_bias_of(clip),
        frame_position_std=float(config.get("frame_position_std", DEFAULT_POSITION_STD)),
    )


def _tokenizer(language: str) -> ClipTokenizer:
    return ClipTokenizer()
