"""Which model made an index: its settings, from config.json beside the checkpoint or given, and a hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.config_checks import check_config
from engine.evaluation.feature_files import file_digest

CONFIG_FILE = "config.json"
# What the features of a video, and of a text, depend on besides the weights.
_FEATURES_DEPEND_ON = (
    *("clip_model", "language", "use_temp", "temporal_layers", "max_frames", "max_words"),
    "legacy_special_tokens",
)
# What must be known again to search; scores and tokenizers as well.
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
    """The settings of a checkpoint: those of `config`, or of the config.json beside it; `settings` win.

    Raises `ValueError` naming the file where the checkpoint is absent or the configuration cannot be read.
    """
    path = Path(os.path.expanduser(checkpoint)).absolute()
    if not path.is_file():
        raise ValueError(f"checkpoint {checkpoint}: no such file")
    place = Path(config) if config is not None else path.parent / CONFIG_FILE
    found = _read(place) if config is not None or place.is_file() else {}
    known = {field.name: field.default for field in dataclasses.fields(Config)}
    values = {name: value for name, value in found.items() if name in _KEPT and name in known}
    values |= {name: value for name, value in (settings or {}).items() if value is not None}
    unknown = sorted(values.keys() - known.keys())
    assert not unknown, unknown
    made = Config(**{**values, "init_model": str(path), "do_eval": True, "output_dir": str(path.parent)})
    check_config(made, program="main_task_retrieval.py")
    return made


def identity_of(config: Config) -> dict[str, Any]:
    """The record of a model in index.json; `hash` is equal where the features of all inputs are."""
    assert config.init_model is not None
    record: dict[str, Any] = {"checkpoint_sha256": file_digest(Path(config.init_model))}
    record |= {name: getattr(config, name) for name in _FEATURES_DEPEND_ON}
    record["clip_model"] = Path(config.clip_model).name  # a JSON may lie elsewhere on another machine
    text = json.dumps(record, sort_keys=True)
    return {**record, "hash": hashlib.sha256(text.encode()).hexdigest(), "path": config.init_model}


def settings_record(config: Config) -> dict[str, Any]:
    """The settings that `model_config` needs to make the same model again."""
    kept = {name: getattr(config, name) for name in _KEPT}
    for name in ("clip_model", "pretrained_text"):  # names of models, or paths, which must hold from anywhere
        if Path(str(kept[name])).exists():
            kept[name] = str(Path(str(kept[name])).absolute())
    return kept


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as the settings of a run: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds no settings of a run")
    return values
