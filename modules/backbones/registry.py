"""From the name of a model to a `Backbone`: one line of `FAMILIES` for each kind of model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.languages import LANGUAGES
from modules.backbones.backbone import Backbone
from modules.backbones.bilingual import BilingualTextEncoder
from modules.backbones.hf_models import (
    CHINESE_CLIP,
    CLIP,
    METACLIP_2,
    SIGLIP,
    build_hf_model,
    read_hf_config,
)
from modules.backbones.open_clip_models import build_open_clip
from modules.backbones.request import Request
from modules.backbones.text_encoder import ChineseTextEncoder, ClipTextEncoder
from modules.backbones.tokenizers import ChineseTokenizer

# How a family of models is built. The names of all but the first are those of transformers (`model_type`).
FAMILIES: dict[str, Callable[[Request], Backbone]] = {
    "open_clip": build_open_clip,
    "clip": partial(build_hf_model, kind=CLIP),
    "chinese_clip": partial(build_hf_model, kind=CHINESE_CLIP),
    "siglip": partial(build_hf_model, kind=SIGLIP),
    "metaclip_2": partial(build_hf_model, kind=METACLIP_2),
}


def build_backbone(request: Request) -> Backbone:
    """The backbone of that name with its weights, on the CPU in float32.

    Raises `UserError` for an unknown name (with near ones), for weights that are absent (what to fetch) or of
    another model (counts and first names), and for a model without an image or a text tower.
    """
    request.check_weights()
    return FAMILIES[family_of(request)](request)


def family_of(request: Request) -> str:
    """The key of `FAMILIES` for a request. Raises `UserError` for a model of another family."""
    if not request.is_place or request.has_open_clip_config():
        return "open_clip"
    family = str(read_hf_config(request).model_type)
    if family not in FAMILIES:
        raise UserError(
            f"{request.flag}: a model of the type '{family}', not an image and a text tower with one joint "
            f"space; possible are {', '.join(FAMILIES)}"
        )
    return family


def with_bert(
    backbone: Backbone,
    name_or_folder: str,
    *,
    pretrained: bool = True,
    legacy_special_tokens: bool = False,
    cache_dir: str | Path | None = None,
) -> Backbone:
    """`backbone` with a BERT-class text encoder of transformers in the place of its own (Shen et al. 2023).

    Its projection to the joint space starts from random weights, and without `pretrained` all of it does.
    Raises `UserError` as `ChineseTextEncoder` does.
    """
    text = ChineseTextEncoder(
        name_or_folder, embed_dim=backbone.embed_dim, pretrained=pretrained, cache_dir=cache_dir
    )
    tokenizer = partial(
        _bert_tokenizer,
        name=name_or_folder,
        legacy_special_tokens=legacy_special_tokens,
        cache_dir=str(cache_dir) if cache_dir else None,
    )
    return dataclasses.replace(
        backbone,
        text_name=f"--pretrained_text {name_or_folder}",
        text=text,
        tokenizer=tokenizer,
        vocab_size=text.vocab_size,
        context_length=text.context_length,
        languages=frozenset({"chinese"}),
    )


def with_bert_beside(
    backbone: Backbone,
    name_or_folder: str,
    *,
    pretrained: bool = True,
    legacy_special_tokens: bool = False,
    cache_dir: str | Path | None = None,
) -> Backbone:
    """`backbone` with its own text tower for English and a BERT-class encoder for Chinese texts.

    Raises `UserError` as `with_bert` does, and for a text tower that is not CLIP's.
    """
    if not isinstance(backbone.text, ClipTextEncoder):
        raise UserError(
            f"--language bilingual: the text tower of {backbone.text_name} cannot stand beside a Chinese "
            "one; choose a model with a text tower like CLIP's, or one for both languages"
        )
    chinese = with_bert(
        backbone,
        name_or_folder,
        pretrained=pretrained,
        legacy_special_tokens=legacy_special_tokens,
        cache_dir=cache_dir,
    )
    assert isinstance(chinese.text, ChineseTextEncoder)
    return dataclasses.replace(
        backbone,
        text_name=f"{backbone.text_name} {chinese.text_name}",
        text=BilingualTextEncoder(backbone.text, chinese.text),
        context_length=min(backbone.context_length, chinese.context_length),
        languages=frozenset(LANGUAGES),
        by_language=dict(zip(LANGUAGES, (backbone, chinese), strict=True)),
    )


def _bert_tokenizer(
    language: str, *, name: str, legacy_special_tokens: bool, cache_dir: str | None
) -> ChineseTokenizer:
    """The tokenizer of a BERT-class encoder, which is the same for every language."""
    return ChineseTokenizer(name, legacy_special_tokens=legacy_special_tokens, cache_dir=cache_dir)
