"""Backbones of transformers: CLIP, Chinese-CLIP (OFA's), SigLIP and SigLIP 2, MetaCLIP 2.

Shapes: N frames, B texts, W words, H width of a tower, D joint width, S pixels a side.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from modules.backbones.backbone import Backbone, Preprocessing, tower_size
from modules.backbones.clip_configs import BOTH, ENGLISH
from modules.backbones.clip_weights import fill_weights, read_clip_state
from modules.backbones.hub import load_local_first, model_file
from modules.backbones.image_size import resize_image_tower
from modules.backbones.layers import name_parts
from modules.backbones.pretrained_tokenizer import PretrainedTokenizer
from modules.backbones.request import Request
from modules.backbones.text_encoder import checked_length, takes_4d_masks

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_MULTILINGUAL_ROWS = 200_000  # vocabularies of this size are those of many languages
_SQUASHED = {"height", "width"}
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # numbers of Pillow's filters


@dataclass(frozen=True)
class Kind:
    """How a family of transformers' models makes features of its towers' outputs.

    `pool` is the token that the text feature is taken from: the "end" token, the "first" or the "last".
    `masked`: padding is masked; otherwise, where `reads_padding`, it is part of the text. `head`: where the
    projection of the text tower is. `languages`: None decides by the size of the vocabulary.
    """

    pool: str
    masked: bool = False
    reads_padding: bool = False
    head: str = "text_projection"
    languages: frozenset[str] | None = None


class VisionTower(nn.Module):
    """The image tower of a model of transformers, with its projection."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = getattr(model, "visual_projection", None)
        self.image_size: int | tuple[int, int] = int(model.config.vision_config.image_size)
        name_parts(self, embeddings=_EMBEDDINGS, layers=_LAYERS)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, D]."""
        pooled: Tensor = self.vision_model(pixel_values=pixels).pooler_output
        return pooled if self.visual_projection is None else self.visual_projection(pooled)


_EMBEDDINGS = ("vision_model.embeddings", "vision_model.pre_layrnorm")
_LAYERS = ("vision_model.encoder.layers.*",)


class TextTower(nn.Module):
    """The text tower of a model of transformers, with its projection."""

    def __init__(self, model: Any, kind: Kind) -> None:
        super().__init__()
        config = model.config.text_config
        self.text_model = model.text_model
        if kind.head == "text_projection":
            self.text_projection = model.text_projection
        self.kind = kind
        self.eos_id = int(config.eos_token_id if config.eos_token_id is not None else -1)
        self.pad_id = int(config.pad_token_id or 0)
        self.vocab_size = int(config.vocab_size)
        self.context_length = int(config.max_position_embeddings)
        self.reads_padding = kind.reads_padding
        head: Any = self._head()
        self.embed_dim = int(head.out_features)
        name_parts(
            self,
            embeddings=("text_model.embeddings",),
            layers=("text_model.encoder.layers.*", "text_model.encoder.layer.*"),
        )

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Text features [B, D] and word features [B, W, D] of `ids` [B, W]; `mask` [B, W] is 1 on tokens."""
        words = checked_length(ids, self.context_length)
        if self.reads_padding:
            ids = F.pad(ids, (0, self.context_length - words), value=self.pad_id)
        if not self.kind.masked:
            mask = None
        elif mask is not None and takes_4d_masks(self.text_model):
            mask = mask.bool()[:, None, None, :]
        hidden: Tensor = self.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        features: Tensor = self._head()(hidden)
        return self._pool(features, ids), features[:, :words]

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text features depend on: none."""
        return []

    def _head(self) -> Any:
        return self.text_projection if self.kind.head == "text_projection" else self.text_model.head

    def _pool(self, features: Tensor, ids: Tensor) -> Tensor:
        if self.kind.pool != "end":
            return features[:, 0 if self.kind.pool == "first" else -1]
        # OpenAI's configurations give a wrong id of the end token, 2; it has the largest id.
        place = ids if self.eos_id == 2 and self.vocab_size < _MULTILINGUAL_ROWS else ids == self.eos_id
        return features[torch.arange(ids.shape[0], device=ids.device), place.int().argmax(dim=-1)]


CLIP = Kind("end", languages=ENGLISH)
METACLIP_2 = Kind("end")
CHINESE_CLIP = Kind("first", masked=True, languages=frozenset({"chinese"}))
SIGLIP = Kind("last", reads_padding=True, head="text_model.head")


def build_hf_model(request: Request, *, kind: Kind) -> Backbone:
    """The backbone in a folder, or of a name on the hub, in transformers' form.

    Raises `UserError` for files that are absent (what to fetch), for weights that are incomplete or of
    another model, and for a model without an image or a text tower.
    """
    config = read_hf_config(request)
    for tower in ("vision_config", "text_config"):
        if getattr(config, tower, None) is None:
            raise UserError(f"{request.flag}: has no {tower.removesuffix('_config')} tower")
    model = _model(request, config)
    if request.patch_dropout:
        raise UserError(f"--patch_dropout: the image tower of {request.flag} has none; use an open_clip name")
    image, text = VisionTower(model), TextTower(model, kind)
    if request.image_size is not None and request.image_size != image.image_size:
        resize_image_tower(image, request.image_size, flag=request.flag)
    languages = kind.languages or (BOTH if text.vocab_size >= _MULTILINGUAL_ROWS else ENGLISH)
    bias = getattr(model, "logit_bias", None)
    return Backbone(
        name=request.name,
        text_name=request.flag,
        image=image,
        text=text,
        tokenizer=partial(_tokenizer, request=request),
        preprocessing=_preprocessing(request, tower_size(image)),
        embed_dim=text.embed_dim,
        vocab_size=text.vocab_size,
        context_length=text.context_length,
        languages=languages,
        logit_scale=math.exp(model.logit_scale.detach().item()),
        logit_bias=None if bias is None else bias.detach().item(),
    )


def read_hf_config(request: Request) -> Any:
    """The configuration of a model of transformers. Raises `UserError` that says what to fetch."""
    from transformers import AutoConfig

    def load(place: str, local: bool) -> Any:
        return AutoConfig.from_pretrained(place, cache_dir=request.cache_dir, local_files_only=local)

    return _load_part(load, request, what="configuration", files=["config.json"])


def _load_part(load: Any, request: Request, *, what: str, files: list[str]) -> Any:
    return load_local_first(
        load,
        request.place,
        what=what,
        files=files,
        cache_dir=request.cache_dir,
        allow_download=request.allow_download,
        flag=request.flag,
        remedy_flag="--clip_model",
    )


def _model(request: Request, config: Any) -> Any:
    """The model with random weights, with those of its folder, or with those of a file."""
    from transformers import AutoModel

    if request.has_own_weights:

        def load(place: str, local: bool) -> Any:
            return AutoModel.from_pretrained(
                place, cache_dir=request.cache_dir, local_files_only=local, output_loading_info=True
            )

        model, info = _load_part(load, request, what="weights", files=list(_WEIGHT_FILES))
        missing = sorted(info["missing_keys"])
        if missing:
            raise UserError(
                f"{request.flag}: its weight file lacks {len(missing)} weights of its architecture, first "
                f"{', '.join(missing[:3])}; give a complete model"
            )
        return model.float()
    model = AutoModel.from_config(config).float()
    if request.pretrained and request.weights != "none":
        path = Path(request.weights).expanduser()
        state, _ = read_clip_state(path)
        fill_weights(model, state, path=path, name=request.name)
    return model


def _tokenizer(language: str, *, request: Request) -> PretrainedTokenizer:
    return PretrainedTokenizer(
        request.tokenizer or request.place,
        flag=request.flag,
        language=language,
        cache_dir=request.cache_dir,
        allow_download=request.allow_download,
    )


def _preprocessing(request: Request, size: int) -> Preprocessing:
    """That of the model's preprocessor_config.json; without one CLIP's."""
    path = model_file(
        request.place,
        "preprocessor_config.json",
        cache_dir=request.cache_dir,
        allow_download=request.allow_download,
    )
    if path is None:
        return Preprocessing(size)
    settings = json.loads(path.read_text(encoding="utf-8"))
    plain = Preprocessing(size)
    asked = settings.get("size")
    squashed = isinstance(asked, dict) and asked.keys() >= _SQUASHED and not settings.get("do_center_crop")
    return Preprocessing(
        size,
        tuple(settings.get("image_mean") or plain.mean),
        tuple(settings.get("image_std") or plain.std),
        "squash" if squashed else "shortest",
        _INTERPOLATION.get(settings.get("resample"), plain.interpolation),
    )
