"""Image and text towers of open_clip with random weights: architecture by name or JSON file.

`modules/backbones/clip_weights.py` loads weights into them.
"""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn

from common.errors import UserError
from modules.backbones.backbone import MAX_LOGIT_SCALE, tower_size
from modules.backbones.clip_configs import CONFIG_FOLDER, clip_config, frame_position_std
from modules.backbones.hf_text import HfTextEncoder
from modules.backbones.layers import name_parts
from modules.pixels import replace_patch_convolution
from modules.transformer_block import replace_blocks

__all__ = ["CONFIG_FOLDER", "build_clip", "clip_config", "clip_embed_dim", "clip_image_size"]
__all__ += ["fixed_logit_scale", "frame_position_std"]
SIGMOID_LOGIT_SCALE = 10.0  # where training with the sigmoid loss starts (Zhai et al. 2023)
_CLIP_ARGUMENTS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias")
_SMALLEST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
_POOL_TYPES = ("argmax", "eos", "first", "last")


def build_clip(name: str) -> nn.Module:
    """open_clip's model of this architecture, float32, random weights, logit scale 100.

    It is a `CLIP`, or for `custom_text` a `CustomTextCLIP`. CoCa's decoder is left out. `name` is as in
    `clip_config`. Raises `UserError` for an unknown name and for a configuration that is not open_clip's.
    """
    return build_towers(name, clip_config(name))


def build_towers(name: str, config: dict[str, Any], *, cache_dir: str | None = None) -> nn.Module:
    """`build_clip` of a configuration that is read already; `name` is for messages.

    A text tower that is an encoder of transformers (`hf_model_name`) is a `HfTextEncoder`.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    pool = config["text_cfg"].get("pool_type", "argmax")
    if pool not in _POOL_TYPES:
        choices = ", ".join(_POOL_TYPES)
        raise UserError(f"CLIP model '{name}': pool_type is {pool!r}, it must be one of {choices}")
    from_transformers = bool(config["text_cfg"].get("hf_model_name"))
    own_text = from_transformers or bool(config.get("custom_text")) or "multimodal_cfg" in config
    scale = MAX_LOGIT_SCALE if config.get("init_logit_bias") is None else SIGMOID_LOGIT_SCALE
    arguments = {key: config[key] for key in _CLIP_ARGUMENTS if key in config}
    if from_transformers:  # open_clip would fetch its configuration
        arguments["text_cfg"] = _SMALLEST_TEXT
    try:
        clip: Any = (CustomTextCLIP if own_text else CLIP)(**arguments, init_logit_scale=math.log(scale))
    except (TypeError, KeyError, RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"CLIP model '{name}': not a configuration in open_clip's form ({error})") from error
    if from_transformers:
        clip.text = HfTextEncoder(
            config["text_cfg"],
            embed_dim=config["embed_dim"],
            flag=f"--clip_model {name}",
            cache_dir=cache_dir,
        )
    clip.visual.output_tokens = False  # CoCa's decoder would read them
    _replace_slow_parts(clip)
    _name_image_parts(clip.visual)
    built: nn.Module = clip.float()
    return built


def text_tower(clip: Any) -> Any:
    """The module that holds the parts of the text tower of a `CLIP` or `CustomTextCLIP`."""
    return getattr(clip, "text", clip)


def _replace_slow_parts(clip: Any) -> None:
    """Our blocks and patch embedding in the place of open_clip's: the same weights, names and numbers."""
    replace_patch_convolution(clip.visual)
    if hasattr(clip.visual, "transformer"):  # not a ResNet or a tower of timm
        replace_blocks(clip.visual.transformer)
    text = text_tower(clip)
    if isinstance(text, HfTextEncoder):
        return
    plain = getattr(text, "cls_emb", None) is None
    replace_blocks(text.transformer, causal=plain and text.attn_mask is not None)


def _name_image_parts(visual: Any) -> None:
    if hasattr(visual, "trunk"):
        _name_parts_of_timm(visual)
    elif hasattr(visual, "transformer"):
        embeddings = ("conv1", "class_embedding", "positional_embedding", "ln_pre")
        name_parts(visual, embeddings=embeddings, layers=("transformer.resblocks.*",))
    else:
        stem = [f"{kind}{number}" for number in (1, 2, 3) for kind in ("conv", "bn")]
        name_parts(visual, embeddings=stem, layers=[f"layer{number}.*" for number in (1, 2, 3, 4)])


def _name_parts_of_timm(visual: Any) -> None:
    """timm tells the parameters of a model's stem and blocks by regular expressions."""
    matcher = visual.trunk.group_matcher(coarse=False)
    stem = re.compile(matcher["stem"])
    blocks = matcher["blocks"]
    patterns = [blocks] if isinstance(blocks, str) else [pattern for pattern, _ in blocks]
    # A pattern that numbers its matches is that of blocks; the last number is that of the block.
    numbered = [re.compile(f"{pattern}$") for pattern in patterns if pattern.endswith(r"(\d+)")]
    name_parts(
        visual,
        embeddings=[f"trunk.{n}" for n, _ in visual.trunk.named_parameters() if stem.match(n)],
        layers=[f"trunk.{n}" for n, _ in visual.trunk.named_modules() if any(p.match(n) for p in numbered)],
    )


def clip_embed_dim(clip: nn.Module) -> int:
    """Width of the joint space."""
    projection: Any = clip.text_projection
    return int(projection.shape[1])


def clip_image_size(clip: nn.Module) -> int:
    """Pixels a side of the square frames that the image tower, `clip.visual`, takes."""
    visual: Any = clip.visual
    return tower_size(visual)


def logit_scale_of(clip: nn.Module) -> float:
    """exp(logit scale)."""
    logit_scale: Any = clip.logit_scale
    return math.exp(logit_scale.item())


def logit_bias_of(clip: nn.Module) -> float | None:
    """The bias of a model of the sigmoid loss; None for others."""
    bias: Any = getattr(clip, "logit_bias", None)
    return None if bias is None else float(bias.item())


def fixed_logit_scale(clip: nn.Module) -> float:
    """min(exp(logit scale), 100): a constant here, neither trained nor saved."""
    return min(logit_scale_of(clip), MAX_LOGIT_SCALE)
