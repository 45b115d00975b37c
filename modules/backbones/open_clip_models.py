"""Backbones of open_clip (CLIP, SigLIP, EVA-CLIP, MetaCLIP, PE, MobileCLIP, ...): name, file or folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from common.errors import UserError
from modules.backbones.backbone import Backbone
from modules.backbones.clip_configs import (
    DEFAULT_POSITION_STD,
    clip_config,
    languages_of,
    preprocessing_of,
    read_config_file,
)
from modules.backbones.clip_towers import (
    build_towers,
    clip_image_size,
    logit_bias_of,
    logit_scale_of,
    text_tower,
)
from modules.backbones.clip_weights import find_clip_weights, load_clip_file, load_weight_file
from modules.backbones.hf_text import HfTextEncoder
from modules.backbones.hub import MissingFiles, model_file
from modules.backbones.image_size import resize_image_tower
from modules.backbones.pretrained_tokenizer import FILES, PretrainedTokenizer
from modules.backbones.request import OPEN_CLIP_FILE, Request
from modules.backbones.text_encoder import ClipTextEncoder
from modules.backbones.tokenizers import ClipTokenizer

_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def build_open_clip(request: Request) -> Backbone:
    """The backbone of an open_clip name, a JSON file, or a folder or hub repository in open_clip's form.

    Raises `UserError` for an unknown name, for weights that are absent or of another model, and where the
    image tower has no such size or no patch dropout.
    """
    config = _config(request)
    path = _weights_path(request)  # first: making large towers takes seconds
    clip: Any = _towers(request, config)
    _load_weights(clip, request, path)
    if request.image_size is not None and request.image_size != clip_image_size(clip):
        resize_image_tower(clip.visual, request.image_size, flag=request.flag)
    tower = text_tower(clip)
    text = tower if isinstance(tower, HfTextEncoder) else ClipTextEncoder(tower)
    return Backbone(
        name=request.name,
        text_name=request.flag,
        image=clip.visual,
        text=text,
        tokenizer=partial(_tokenizer, request=request, text_cfg=config["text_cfg"]),
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


def _towers(request: Request, config: dict[str, Any]) -> Any:
    if not request.patch_dropout:
        return build_towers(request.name, config, cache_dir=request.cache_dir)
    vision = {**config["vision_cfg"], "patch_dropout": request.patch_dropout}
    reason = "it has no patches"
    try:
        clip: Any = build_towers(request.name, {**config, "vision_cfg": vision}, cache_dir=request.cache_dir)
        if any("PatchDropout" in type(module).__name__ for module in clip.visual.modules()):
            return clip
    except UserError as error:
        reason = str(error)
    raise UserError(f"--patch_dropout: the image tower of {request.flag} cannot leave out patches: {reason}")


def _config(request: Request) -> dict[str, Any]:
    if not request.is_place:
        return clip_config(request.name)
    path = _file_of(request, OPEN_CLIP_FILE)
    assert path is not None, "`registry.family_of` has seen it"
    return clip_config(request.name, read_config_file(path))


def _weights_path(request: Request) -> Path | None:
    """The file of the weights; None: random ones. Raises `MissingFiles` that says what to fetch."""
    if not request.pretrained or request.weights == "none":
        return None
    if not request.has_own_weights:
        return find_clip_weights(
            request.weights,
            name=request.name,
            cache_dir=request.cache_dir,
            allow_download=request.allow_download,
        )
    path = next((found for file in _WEIGHT_FILES if (found := _file_of(request, file)) is not None), None)
    if path is None:
        raise MissingFiles(
            f"{request.flag}: has no {' or '.join(_WEIGHT_FILES)}, in that folder or on the hub; fetch it "
            f"from https://huggingface.co/{request.place}, or start from random ones: --clip_weights none"
        )
    return path


def _load_weights(clip: Any, request: Request, path: Path | None) -> None:
    if path is not None and request.has_own_weights:
        load_weight_file(clip, path, name=request.name)
    elif path is not None:
        load_clip_file(clip, path, request.weights, name=request.name)


def _file_of(request: Request, file: str) -> Path | None:
    return model_file(request.place, file, cache_dir=request.cache_dir, allow_download=request.allow_download)


def _tokenizer(
    language: str, *, request: Request, text_cfg: dict[str, Any]
) -> ClipTokenizer | PretrainedTokenizer:
    """The tokenizer that the text tower was trained with: CLIP's own, or one of transformers."""
    name = request.tokenizer or _tokenizer_in_folder(request) or text_cfg.get("hf_tokenizer_name")
    if not name:
        return ClipTokenizer()
    options = text_cfg.get("tokenizer_kwargs") or {}
    if text_cfg.get("tokenizer_mode"):
        raise UserError(f"{request.flag}: its tokenizer_mode {text_cfg['tokenizer_mode']!r} is not supported")
    return PretrainedTokenizer(
        name,
        flag=request.flag,
        language=language,
        clean=options.get("clean", "whitespace"),
        strip_sep=bool(options.get("strip_sep_token")),
        cache_dir=request.cache_dir,
        allow_download=request.allow_download,
    )


def _tokenizer_in_folder(request: Request) -> str | None:
    folder = Path(request.place).expanduser()
    has_one = request.is_place and folder.is_dir() and any((folder / file).is_file() for file in FILES)
    return str(folder) if has_one else None
