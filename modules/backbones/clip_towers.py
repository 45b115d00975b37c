"""CLIP's image and text towers with random weights: architecture by name or JSON file.

The architectures are open_clip's. `modules/backbones/clip_weights.py` loads weights into them.
"""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import UserError, file_errors
from common.json_text import parse_json
from modules.pixels import replace_patch_convolution
from modules.transformer_block import replace_blocks

MAX_LOGIT_SCALE = 100.0
CONFIG_FOLDER = Path(__file__).parent / "model_configs"
DEFAULT_POSITION_STD = 0.02
_CLIP_ARGUMENTS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")


def build_clip(name: str) -> nn.Module:
    """open_clip's CLIP of this architecture, float32, random weights, logit scale 100.

    `name` is a path to a JSON file in open_clip's form, the name of a file in `model_configs`, or a model
    that open_clip knows. Raises `UserError` for an unknown name and for a text tower that is not CLIP's own.
    """
    from open_clip.model import CLIP

    config = clip_config(name)
    try:
        clip: nn.Module = CLIP(
            **{key: config[key] for key in _CLIP_ARGUMENTS if key in config},
            init_logit_scale=math.log(MAX_LOGIT_SCALE),
        )
    except (TypeError, KeyError) as error:
        raise UserError(f"CLIP model '{name}': not a configuration in open_clip's form ({error})") from error
    _replace_slow_parts(clip)
    return clip.float()


def _replace_slow_parts(clip: Any) -> None:
    """Our blocks and patch embedding in the place of open_clip's: the same weights, names and numbers."""
    replace_patch_convolution(clip.visual)
    if hasattr(clip.visual, "transformer"):  # not a ResNet or a tower of timm
        replace_blocks(clip.visual.transformer)
    replace_blocks(clip.transformer, causal=True)  # `clip_config` allows no other text tower


def clip_config(name: str) -> dict[str, Any]:
    """The architecture in open_clip's form, after a check that the encoders here can run it."""
    config = _read_config(name)
    text = config.get("text_cfg", {})
    unsupported = [
        key
        for key in ("hf_model_name", "no_causal_mask", "embed_cls", "proj_bias", "proj_type")
        if text.get(key)
    ]
    if text.get("pool_type", "argmax") != "argmax":
        unsupported.append("pool_type")
    if unsupported or "multimodal_cfg" in config:
        what = ", ".join(unsupported) or "multimodal_cfg"
        raise UserError(
            f"CLIP model '{name}': its text tower is not CLIP's own ({what}); choose a plain CLIP"
        )
    if "timm_model_name" in config.get("vision_cfg", {}):
        # Without this, timm would download its ImageNet weights.
        config["vision_cfg"]["timm_model_pretrained"] = False
    return config


def frame_position_std(name: str) -> float:
    """Standard deviation of the temporal transformer's initial frame positions (`frame_position_std`).

    A JSON file may set it for an untrained image tower: its features are about 1 in size, and with positions
    of the usual 0.02 the order of frames is not learned for thousands of steps.
    """
    return float(clip_config(name).get("frame_position_std", DEFAULT_POSITION_STD))


def clip_embed_dim(clip: nn.Module) -> int:
    """Width of the joint space."""
    projection: Any = clip.text_projection
    return int(projection.shape[1])


def clip_image_size(clip: nn.Module) -> int:
    """Pixels a side of the square frames that the image tower, `clip.visual`, takes."""
    size: Any = clip.visual.image_size  # type: ignore[union-attr]
    return int(size[0] if isinstance(size, tuple) else size)


def fixed_logit_scale(clip: nn.Module) -> float:
    """min(exp(logit scale), 100): a constant here, neither trained nor saved."""
    logit_scale: Any = clip.logit_scale
    return min(math.exp(logit_scale.item()), MAX_LOGIT_SCALE)


def _read_config(name: str) -> dict[str, Any]:
    import open_clip

    path = Path(name) if name.endswith(".json") else CONFIG_FOLDER / f"{name}.json"
    if path.is_file():
        return _read_json(path)
    if name.endswith(".json"):
        raise UserError(f"CLIP model '{name}': no such file")
    architectures = open_clip.list_models()
    if name in architectures:
        config: dict[str, Any] = open_clip.get_model_config(name)
        return config
    configured = sorted(file.stem for file in CONFIG_FOLDER.glob("*.json"))
    near = difflib.get_close_matches(name, configured + architectures, n=5, cutoff=0.4)
    raise UserError(
        f"CLIP model '{name}' is unknown; it can be a JSON file, one of {', '.join(configured)}, "
        f"or an open_clip name{': ' + ', '.join(near) if near else ''}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with file_errors(path):
            config = parse_json(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    entries: dict[str, Any] = config if isinstance(config, dict) else {}
    wrong = [key for key, kind in kinds.items() if not isinstance(entries.get(key), kind)]
    if wrong:
        raise UserError(
            f"{path}: {', '.join(wrong)} missing or of another type; "
            "see modules/backbones/model_configs/toy.json for the form"
        )
    return entries
