"""Every model of open_clip: each is of a kind of which one is built and trained on the meta device.

`benchmarks/protocol/backbone_walk.py` does it for all, which takes long.
"""

from __future__ import annotations

import open_clip
import pytest

from benchmarks.protocol.backbone_walk import EXCEPTIONS, examine_on_meta
from modules.backbones.clip_configs import clip_config, languages_of

# Small ones of all kinds; how they differ is `kind_of`.
NAMES = (
    *("ViT-S-32", "RN50", "ViT-L-14-CLIPA", "ViT-L-14-worldwide", "MobileCLIP2-S0", "PE-Core-T-16-384"),
    *("ViT-B-32-SigLIP2-256", "EVA02-B-16", "convnext_tiny", "ViTamin-S", "swin_base_patch4_window7_224"),
    *("coca_ViT-B-32", "coca_roberta-ViT-B-32", "roberta-ViT-B-32", "mt5-base-ViT-B-32", "nllb-clip-base"),
    *("vit_medium_patch16_gap_256", "vit_relpos_medium_patch16_cls_224", "ViT-SO400M-16-SigLIP-i18n-256"),
)
BUILT = ("ViT-B-32-SigLIP2-256", "ViTamin-S", "nllb-clip-base")
_SIZES = {"image_size", "layers", "width", "patch_size", "head_width", "heads", "context_length"}
_SIZES |= {"vocab_size", "mlp_ratio", "timm_drop_path", "timm_drop", "ls_init_value", "norm_kwargs"}
_SIZES |= {"act_kwargs", "hf_tokenizer_name", "tokenizer_kwargs", "timm_model_pretrained", "eos_id"}
_SIZES |= {"timm_proj", "timm_pool", "attn_pooler_heads"}


def kind_of(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """What kind of image tower, and of text tower, a model has: its options other than sizes."""
    config = clip_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    image = {f"{key}={value}" for key, value in vision.items() if key not in _SIZES}
    if "timm_model_name" in vision:
        image = {vision["timm_model_name"].split("_")[0].rstrip("0123456789")}
        image = {"vit"} if vision["timm_model_name"].startswith(("vit_", "vitamin_")) else image
    elif isinstance(vision["layers"], list):
        image = {"ResNet"}
    words = {f"{key}={value}" for key, value in text.items() if key not in _SIZES and value is not False}
    words = {key.split("-large")[0].split("-xl")[0].replace("1.3B", "600M") for key in words}
    words = {key.replace("xlm-roberta", "roberta").removesuffix("-base") for key in words}
    return frozenset(image), frozenset(words)


def test_every_model_is_of_a_kind_that_is_walked() -> None:
    kinds = [kind_of(name) for name in NAMES]
    images, texts = {image for image, _ in kinds}, {text for _, text in kinds}
    others = {
        name
        for name in open_clip.list_models()
        if kind_of(name)[0] not in images or kind_of(name)[1] not in texts
    }
    assert others == EXCEPTIONS.keys()
    assert all(languages_of(clip_config(name)) for name in open_clip.list_models())


@pytest.mark.parametrize("name", BUILT)
def test_a_model_of_each_family_trains_a_step(name: str) -> None:
    row = examine_on_meta(name)
    assert row.problems == []
    assert row.image_layers >= 12 and row.text_layers >= 12
