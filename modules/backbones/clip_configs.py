"""Architectures in open_clip's form, by name or from a JSON file, and what else belongs to them.

Besides open_clip's own keys a JSON file may have `preprocess_cfg` (open_clip's: mean, std, interpolation,
resize_mode), `languages` of the text tower and `frame_position_std`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, file_errors
from common.json_text import parse_json
from modules.backbones.backbone import INTERPOLATIONS, RESIZE_MODES, Preprocessing

CONFIG_FOLDER = Path(__file__).parent / "model_configs"
DEFAULT_POSITION_STD = 0.02
ENGLISH = frozenset({"english"})
BOTH = frozenset({"english", "chinese"})
# Tokenizers, and text encoders of transformers, that know many languages.
_MULTILINGUAL = ("siglip2", "i18n", "xlm", "mt5", "nllb", "gemma", "multilingual")


def clip_config(name: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """The architecture of that name, after a check that it is one of an image and a text tower.

    `name` is a path to a JSON file in open_clip's form, the name of a file in `model_configs`, or a model
    that open_clip knows; `given` is a configuration that is read already. Raises `UserError` for an unknown
    name, with near ones.
    """
    config = _read_config(name) if given is None else given
    if "timm_model_name" in config["vision_cfg"]:
        # Without this, timm would download its ImageNet weights.
        config["vision_cfg"]["timm_model_pretrained"] = False
    return config


def frame_position_std(name: str) -> float:
    """Standard deviation of the temporal transformer's initial frame positions (`frame_position_std`).

    A JSON file may set it for an untrained image tower: its features are about 1 in size, and with positions
    of the usual 0.02 the order of frames is not learned for thousands of steps.
    """
    return float(clip_config(name).get("frame_position_std", DEFAULT_POSITION_STD))


def languages_of(config: dict[str, Any]) -> frozenset[str]:
    """The languages that the text tower of an architecture was trained with."""
    if "languages" in config:
        return frozenset(config["languages"])
    text = config["text_cfg"]
    names = f"{text.get('hf_tokenizer_name', '')} {text.get('hf_model_name', '')}".lower()
    return BOTH if any(part in names for part in _MULTILINGUAL) else ENGLISH


def preprocessing_of(name: str, config: dict[str, Any], *, weights: str, size: int) -> Preprocessing:
    """The preprocessing that the weights `weights` of the architecture `name` were trained with.

    That of the tag; for other weights that of the first tag that open_clip has for the name, else CLIP's.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    settings = config.get("preprocess_cfg") or get_pretrained_cfg(name, weights)
    if not settings:
        tags = list_pretrained_tags_by_model(name)
        settings = get_pretrained_cfg(name, tags[0]) if tags else {}
    return read_preprocessing(settings, size=size, source=name)


def read_preprocessing(settings: dict[str, Any], *, size: int, source: str) -> Preprocessing:
    """Preprocessing in open_clip's form. Raises `UserError` naming `source` for an impossible value."""
    plain = Preprocessing(size)
    resize = settings.get("resize_mode") or plain.resize
    interpolation = settings.get("interpolation") or plain.interpolation
    mean, std = (tuple(settings.get(key) or getattr(plain, key)) for key in ("mean", "std"))
    for key, value, choices in (
        ("resize_mode", resize, RESIZE_MODES),
        ("interpolation", interpolation, INTERPOLATIONS),
    ):
        if value not in choices:
            raise UserError(f"{source}: {key} is {value!r}, it must be one of {', '.join(choices)}")
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise UserError(f"{source}: mean and std must be 3 numbers each, those of std above 0")
    return Preprocessing(size, mean, std, resize, interpolation)


def _read_config(name: str) -> dict[str, Any]:
    import open_clip

    path = Path(name) if name.endswith(".json") else CONFIG_FOLDER / f"{name}.json"
    if path.is_file():
        return read_config_file(path)
    if name.endswith(".json"):
        raise UserError(f"CLIP model '{name}': no such file")
    architectures = open_clip.list_models()
    if name in architectures:
        config: dict[str, Any] = open_clip.get_model_config(name)
        return config
    configured = sorted(file.stem for file in CONFIG_FOLDER.glob("*.json"))
    near = near_names(name, configured + architectures)
    raise UserError(
        f"CLIP model '{name}' is unknown; it can be a JSON file, one of {', '.join(configured)}, "
        f"or an open_clip name{': ' + ', '.join(near) if near else ''}"
    )


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """At most five of `known` that are like `name`, whatever the case of their letters; best first."""
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=5, cutoff=0.4)
    return [folded[each] for each in near]


def read_config_file(path: Path) -> dict[str, Any]:
    """A configuration in open_clip's form, also as in `open_clip_config.json` of the hub.

    Raises `UserError` that names the file and the entries that are missing.
    """
    try:
        with file_errors(path):
            config = parse_json(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    entries: dict[str, Any] = config if isinstance(config, dict) else {}
    if isinstance(entries.get("model_cfg"), dict):
        entries = {**entries["model_cfg"], "preprocess_cfg": entries.get("preprocess_cfg")}
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(entries.get(key), kind)]
    if wrong:
        what = " and ".join(key.removesuffix("_cfg") + " tower" for key in wrong if key.endswith("_cfg"))
        raise UserError(
            f"{path}: {', '.join(wrong)} missing or of another type"
            f"{f', so the model has no {what}' if what else ''}; "
            "see modules/backbones/model_configs/toy.json for the form"
        )
    return entries
