"""Which model made an index: its settings (from the run's config.json, or from flags) and a hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from common.errors import UserError, file_errors
from common.json_text import parse_json
from engine.config import Config, check_settings
from engine.config_checks import check_config
from engine.evaluation.feature_files import file_digest

CONFIG_FILE = "config.json"
# Settings that change the features of a video or a text.
_FEATURES_DEPEND_ON = (
    *("clip_model", "language", "use_temp", "temporal_layers", "max_frames", "max_words"),
    "legacy_special_tokens",
)
# Settings that searching needs: also those of scores and tokenizers.
_KEPT = (
    *_FEATURES_DEPEND_ON,
    *("pretrained_text", "use_frame_fea", "top_frames", "cache_dir", "dataset"),
)


def model_config(
    checkpoint: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    settings: dict[str, Any] | None = None,
) -> Config:
    """The settings of a checkpoint, from `config` or the config.json in its folder; `settings` override them.

    Raises `UserError` that names the file if the checkpoint is absent or the settings cannot be read.
    """
    path = Path(os.path.expanduser(checkpoint)).absolute()
    if not path.is_file():
        raise UserError(f"checkpoint {checkpoint}: no such file")
    config_path = Path(config) if config is not None else path.parent / CONFIG_FILE
    saved = _read(config_path) if config is not None or config_path.is_file() else {}
    fields = {field.name for field in dataclasses.fields(Config)}
    values = {name: value for name, value in saved.items() if name in _KEPT and name in fields}
    values |= {name: value for name, value in (settings or {}).items() if value is not None}
    assert values.keys() <= fields, sorted(values.keys() - fields)
    result = Config(**{**values, "init_model": str(path), "do_eval": True, "output_dir": str(path.parent)})
    check_config(result, program="main_task_retrieval.py")
    return result


def identity_of(config: Config) -> dict[str, Any]:
    """The record of a model in index.json. Models with equal `hash` give equal features."""
    assert config.init_model is not None
    record: dict[str, Any] = {"checkpoint_sha256": file_digest(Path(config.init_model))}
    record |= {name: getattr(config, name) for name in _FEATURES_DEPEND_ON}
    record["clip_model"] = Path(config.clip_model).name  # a JSON file may be elsewhere on another machine
    text = json.dumps(record, sort_keys=True)
    return {**record, "hash": hashlib.sha256(text.encode()).hexdigest(), "path": config.init_model}


def settings_record(config: Config) -> dict[str, Any]:
    """The settings from which `model_config` makes the same model again."""
    record = {name: getattr(config, name) for name in _KEPT}
    for name in ("clip_model", "pretrained_text"):  # a path must be valid from any working directory
        if Path(str(record[name])).exists():
            record[name] = str(Path(str(record[name])).absolute())
    return record


def _read(path: Path) -> dict[str, Any]:
    try:
        with file_errors(path, "cannot be read as the settings of a run"):
            values = parse_json(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as the settings of a run: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings of a run")
    check_settings(values, path)
    return values
