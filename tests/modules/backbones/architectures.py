"""Small models of every kind of tower: configurations in open_clip's form, and folders in transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS, VOCAB, WIDTH = 8, 64, 16
_VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
_TEXT: dict[str, Any] = {
    "context_length": WORDS,
    "vocab_size": VOCAB,
    "width": 32,
    "heads": 2,
    "layers": 2,
}
_SIGLIP: dict[str, Any] = {
    **_TEXT,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}
_TIMM: dict[str, Any] = {"image_size": 224, "timm_pool": "", "timm_proj": "linear"}


def _model(*, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any) -> Any:
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {**(vision or _VISION)},
        "text_cfg": {**(text or _TEXT)},
        **more,
    }


# One for each kind of text or image tower among open_clip's configurations.
TEXTS: dict[str, dict[str, Any]] = {
    "CLIP": _model(quick_gelu=True),
    "SigLIP": _model(text=_SIGLIP, custom_text=True, init_logit_bias=-10),
    "MobileCLIP": _model(text={**_TEXT, "no_causal_mask": True}, custom_text=True),
    "CLIPA": _model(
        vision={**_VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        text={**_TEXT, "no_causal_mask": True, "pool_type": "last"},
    ),
    "MetaCLIP 2": _model(text={**_TEXT, "pool_type": "eos", "eos_id": 2}),
    "first token": _model(text={**_TEXT, "no_causal_mask": True, "pool_type": "first"}, custom_text=True),
    "no projection": _model(text={**_TEXT, "width": WIDTH, "proj_type": "none"}, custom_text=True),
    "CoCa": _model(
        vision={**_VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        text={**_TEXT, "embed_cls": True, "output_tokens": True},
        multimodal_cfg={"context_length": WORDS, "vocab_size": VOCAB, "width": 32, "heads": 2, "layers": 1},
        custom_text=True,
    ),
}
IMAGES: dict[str, dict[str, Any]] = {
    "ResNet": _model(vision={"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}),
    "ViT of timm": _model(
        vision={"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token"},
        custom_text=True,
    ),
    "ConvNeXt": _model(vision={**_TIMM, "timm_model_name": "convnext_atto", "timm_drop_path": 0.1}),
    "FastViT": _model(vision={"image_size": 256, "timm_model_name": "fastvit_t8", "timm_pool": "avg"}),
}
# Encoders of transformers as text towers, small; what open_clip would read from the hub.
ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": {
        "model_type": "xlm-roberta",
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 80,
    },
    "mt5": {
        "model_type": "mt5",
        "vocab_size": VOCAB,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    },
    "nllb": {
        "model_type": "m2m_100",
        "vocab_size": VOCAB,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
    },
    "bert": {
        "model_type": "bert",
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
}
POOLERS = {"roberta": "mean_pooler", "mt5": "mean_pooler", "nllb": "cls_pooler", "bert": "cls_pooler"}
_HF_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": WORDS,
    "projection_dim": WIDTH,
}
_HF_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": WIDTH,
}
_ENDS = {"bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 1}
HF_MODELS: dict[str, dict[str, Any]] = {
    "clip": {"text": {**_HF_TEXT, "eos_token_id": 2}, "vision": _HF_VISION, "projection_dim": WIDTH},
    "chinese_clip": {"text": {**_HF_TEXT, "pad_token_id": 0}, "vision": _HF_VISION, "projection_dim": WIDTH},
    "siglip": {"text": {**_HF_TEXT, "projection_size": 32}, "vision": _HF_VISION},
    "metaclip_2": {"text": {**_HF_TEXT, **_ENDS}, "vision": _HF_VISION, "projection_dim": WIDTH},
}


def write_config(folder: Path, config: dict[str, Any]) -> str:
    """A JSON file for --clip_model."""
    path = folder / "model.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def write_encoder(folder: Path, kind: str) -> str:
    """The folder of one of `ENCODERS`, with its configuration only."""
    from transformers import AutoConfig

    values = dict(ENCODERS[kind])
    AutoConfig.for_model(values.pop("model_type"), **values).save_pretrained(folder / kind)
    return str(folder / kind)


def with_encoder(folder: Path, kind: str) -> dict[str, Any]:
    """A configuration whose text tower is one of `ENCODERS`."""
    text = {
        "hf_model_name": write_encoder(folder, kind),
        "hf_pooler_type": POOLERS[kind],
        "hf_proj_type": "mlp" if kind == "mt5" else "linear",
    }
    return _model(text=text)


def hf_model(kind: str) -> Any:
    """One of `HF_MODELS`, with random weights."""
    from transformers import AutoConfig, AutoModel

    settings = HF_MODELS[kind]
    more = {name: value for name, value in settings.items() if name not in ("text", "vision")}
    config = AutoConfig.for_model(
        kind, text_config=settings["text"], vision_config=settings["vision"], **more
    )
    return AutoModel.from_config(config).eval()
