"""A published image-text model as it is, without a checkpoint: its name, settings, record in an index."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.languages import BILINGUAL
from common.names import is_path
from engine.config import Config
from engine.config_checks import check_config
from engine.model_setup import request_of
from engine.saved_settings import SETTINGS_FILE, read_saved_settings
from modules.backbones.backbone import Backbone
from modules.backbones.clip_configs import BOTH, near_names
from modules.backbones.clip_weights import hub_files, known_tags, tag_config
from modules.backbones.hub import MissingFiles
from modules.backbones.registry import build_backbone
from modules.backbones.request import DEFAULT_WEIGHTS, HUB_PREFIX
from search.index_format import ZERO_SHOT

# docs/SEARCH.md says why.
DEFAULT_MODEL = "ViT-B-16-SigLIP2:webli"
_SAMPLED = 65_536  # numbers of each weight that enter the hash
# As CLIP4Clip's meanP (Luo et al. 2021), with the best frames beside it.
_POOLING = {"use_temp": False, "use_frame_fea": True, "head": "hmmc", "text_tower": "clip"}
_FLAGS = (("--clip_model", "--model"), ("--clip_weights FILE", "--model NAME:FILE"), ("--clip_weights ", ":"))


def named_model(model: str) -> dict[str, Any]:
    """The settings `clip_model` and `clip_weights` that a value of --model stands for.

    Raises `UserError` for an empty one, or a folder that does not exist.
    """
    name, colon, weights = model.rpartition(":")
    if not colon or model.startswith((HUB_PREFIX, "local-dir:")) and model.count(":") == 1:
        name, weights = model, ""
    if not name.strip():
        raise UserError(f"--model {model!r}: give an open_clip name, OWNER/NAME of the hub, or a folder")
    folder = Path(name).expanduser()
    if is_path(name) and not name.endswith(".json") and not name.startswith((HUB_PREFIX, "local-dir:")):
        if folder.is_dir():
            if read_saved_settings(folder / SETTINGS_FILE) is not None:
                raise UserError(f"--model {model}: a trained model; give it with --init_model")
            name = str(folder.absolute())
        elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
            name = HUB_PREFIX + name
        else:
            raise UserError(f"--model {model}: no such folder")
    if weights and is_path(weights):
        weights = str(Path(weights).expanduser().absolute())
    return {"clip_model": name, "clip_weights": weights or _usual_weights(name)}


def _usual_weights(name: str) -> str:
    """The first tag that open_clip has for a name; a folder or repository has its own weights."""
    if is_path(name, (".json",)) or name.startswith(HUB_PREFIX):
        return DEFAULT_WEIGHTS
    tags = known_tags(name)
    return tags[0] if tags else DEFAULT_WEIGHTS


def pretrained_settings(settings: dict[str, Any]) -> tuple[Config, Backbone]:
    """The settings of the model and its two towers. Raises `UserError` as `build_backbone`."""
    known = {field.name for field in dataclasses.fields(Config)}
    values = {name: value for name, value in settings.items() if name in known and value is not None}
    values = {**values, **_POOLING, "do_eval": True, "output_dir": os.curdir, "language": BILINGUAL}
    frames = values.get("max_frames", Config.max_frames)
    values.setdefault("top_frames", min(Config.top_frames, frames))
    config = Config(**values)
    check_config(config, program="main_task_retrieval.py")
    backbone = build_backbone(request_of(config))
    language = BILINGUAL if backbone.languages == BOTH else min(backbone.languages)
    return dataclasses.replace(config, language=language), backbone


def pretrained_of_index(settings: dict[str, Any], model: str | None) -> dict[str, Any]:
    """The settings of the model that made an index; `model` (--model) says where it is now."""
    return {**settings, **(named_model(model) if model is not None else {})}


def pretrained_identity(config: Config, backbone: Backbone) -> dict[str, Any]:
    """The record of a published model in index.json. Models with equal `hash` give equal features.

    The hash is that of the weights, so the same model under another name, or from a file, is the same.
    """
    frames = backbone.preprocessing
    record: dict[str, Any] = {
        "kind": ZERO_SHOT,
        "weights_sha256": weights_digest(backbone.image, backbone.text),
        "preprocessing": f"{frames.size} {frames.resize} {frames.interpolation} {frames.mean} {frames.std}",
        "max_frames": config.max_frames,
        "max_words": config.max_words,
    }
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    weights = config.clip_weights
    own = weights == DEFAULT_WEIGHTS and is_path(config.clip_model)
    path = config.clip_model if own else f"{config.clip_model}:{weights}"
    names = {"clip_model": Path(config.clip_model).name, "language": config.language}
    return {**record, **names, "hash": digest, "path": path}


def weights_digest(*towers: nn.Module) -> str:
    """SHA-256 of names, shapes and at most `_SAMPLED` evenly spread numbers of each weight."""
    digest = hashlib.sha256()
    for tower in towers:
        for name, weight in sorted(tower.state_dict().items()):
            flat = weight.detach().cpu().flatten()
            step = max(1, -(-flat.numel() // _SAMPLED))
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(flat[::step].to(torch.float64).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def loading_errors(settings: dict[str, Any]) -> Iterator[None]:
    """Errors of loading under the flag of the search, with what to fetch and where to put it."""
    model = str(settings["clip_model"])
    try:
        yield
    except MissingFiles as error:
        repository = repository_of(model, str(settings.get("clip_weights") or ""))
        if repository is None:
            raise UserError(_reworded(str(error))) from None
        near = _near_repositories(repository)
        raise UserError(
            f"--model {model.removeprefix(HUB_PREFIX)}: not all of it is in the cache, and the rest cannot "
            f"be downloaded here: fetch all files of https://huggingface.co/{repository} into a folder and "
            f"give --model FOLDER{near}"
        ) from error
    except UserError as error:
        raise UserError(_reworded(str(error))) from None


def _reworded(message: str) -> str:
    for theirs, ours in _FLAGS:
        message = message.replace(theirs, ours)
    return message


def repository_of(model: str, weights: str) -> str | None:
    """The repository of the hub that has all files of a model; None for a folder, or a file of weights."""
    if model.startswith(HUB_PREFIX):
        return model.removeprefix(HUB_PREFIX)
    return hub_files(tag_config(model, weights))[0] or None


def _near_repositories(repository: str) -> str:
    """A remark with names like `repository`, unless it is one that open_clip knows."""
    import open_clip

    known = sorted({hub_files(tag_config(name, tag))[0] for name, tag in open_clip.list_pretrained()} - {""})
    near = [] if repository in known else near_names(repository, known)[:3]
    return f" (if the name is wrong: {', '.join(near)}?)" if near else ""
