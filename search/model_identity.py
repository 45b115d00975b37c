"""Which model made an index: its settings (from the run's config.json, or from flags) and a hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.names import is_path
from dataloaders.datasets.files import read_json_object
from engine.config import Config
from engine.config_checks import check_config
from engine.evaluation.feature_files import file_digest
from engine.saved_settings import check_settings, disagreements, read_saved_settings, settings_file, take_over
from modules.backbones.hub import holds_model, model_folder
from modules.backbones.request import HUB_PREFIX
from modules.heads.registry import head_class
from search.index_format import TRAINED
from search.models.saved import find_checkpoint

logger = logging.getLogger(__name__)
# Settings that change the features of a video or a text.
_FEATURES_DEPEND_ON = (
    *("clip_model", "language", "use_temp", "temporal_layers", "max_frames", "max_words"),
    "legacy_special_tokens",
)
_LEFT_OUT = ("text_tower", "image_size", "tokenizer")  # if they have their default values
# Settings that searching needs: also those of scores and tokenizers.
_KEPT = (
    *_FEATURES_DEPEND_ON,
    *_LEFT_OUT,
    "clip_weights",  # preprocessing can depend on it
    *("pretrained_text", "use_frame_fea", "top_frames", "cache_dir", "dataset"),
    *("head", "wti_layers", "xpool_heads", "head_padding"),
)


def model_config(
    checkpoint: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    settings: dict[str, Any] | None = None,
) -> Config:
    """The settings of a checkpoint, from `config` or the config.json in its folder; `settings` override them.

    Logs a warning for each of `settings` that disagrees with the file. Raises `UserError` that names the file
    if the checkpoint is absent or the settings cannot be read.
    """
    path = _existing(checkpoint)
    config_path = Path(config) if config is not None else settings_file(path)
    saved = _read(config_path) if config is not None else read_saved_settings(config_path) or {}
    values = {name: value for name, value in (settings or {}).items() if value is not None}
    result = take_over(_config(path, values), saved, names=_KEPT, given=values)
    for remark in disagreements(result, saved, names=_FEATURES_DEPEND_ON, path=config_path):
        logger.warning(remark)
    check_config(result, program="main_task_retrieval.py")
    return result


def model_of_index(checkpoint: str | os.PathLike[str], settings: dict[str, Any]) -> Config:
    """The settings of the model that made an index: those stored in the index. Raises as `model_config`."""
    clip_model = Path(str(settings.get("clip_model", "")))
    if clip_model.is_absolute() and clip_model.suffix != ".json" and not holds_model(clip_model):
        # Former versions took a name for a path if a file of this name was in the working directory.
        settings = {**settings, "clip_model": clip_model.name}
    result = _config(_existing(checkpoint), settings)
    check_config(result, program="main_task_retrieval.py")
    return result


def _existing(checkpoint: str | os.PathLike[str]) -> Path:
    path = find_checkpoint(checkpoint)
    if path is None:
        what = "no checkpoint in this folder" if Path(checkpoint).expanduser().is_dir() else "no such file"
        raise UserError(f"checkpoint {checkpoint}: {what}")
    return path


def _config(path: Path, settings: dict[str, Any]) -> Config:
    unknown = settings.keys() - {field.name for field in dataclasses.fields(Config)}
    assert not unknown, sorted(unknown)
    return Config(**{**settings, "init_model": str(path), "do_eval": True, "output_dir": str(path.parent)})


def identity_of(config: Config) -> dict[str, Any]:
    """The record of a model in index.json. Models with equal `hash` give equal features."""
    assert config.init_model is not None
    record: dict[str, Any] = {"checkpoint_sha256": file_digest(Path(config.init_model))}
    record |= {name: getattr(config, name) for name in _FEATURES_DEPEND_ON}
    for name in _LEFT_OUT:  # so that the hash is that of former versions, which had no such setting
        if getattr(config, name) != getattr(Config, name):
            record[name] = getattr(config, name)
    record["use_temp"] = bool(config.use_temp)
    if not head_class(config.head).is_of_cosines:  # of the other heads, features are the same
        record |= {name: getattr(config, name) for name in ("head", "head_padding")}
    record["clip_model"] = Path(config.clip_model).name  # a JSON file may be elsewhere on another machine
    text = json.dumps(record, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {**record, "hash": digest, "path": config.init_model, "kind": TRAINED}


def settings_record(config: Config) -> dict[str, Any]:
    """The settings from which `model_config` makes the same model again."""
    record = {name: getattr(config, name) for name in _KEPT}
    record["use_temp"] = bool(config.use_temp)
    # A path must be valid from any working directory.
    if not config.clip_model.startswith(HUB_PREFIX) and is_path(config.clip_model, (".json",)):
        record["clip_model"] = _absolute(config.clip_model)
    if model_folder(config.pretrained_text) is not None:
        record["pretrained_text"] = _absolute(config.pretrained_text)
    if config.tokenizer and model_folder(config.tokenizer) is not None:
        record["tokenizer"] = _absolute(config.tokenizer)
    return record


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _read(path: Path) -> dict[str, Any]:
    return check_settings(read_json_object(path), path)
