"""The settings and figures of a saved folder: what a model needs, without paths of this machine.

config.json holds the settings that make the model again. Files that they name (a JSON file of --clip_model, a
folder with a tokenizer) are copied, and `beside` lists the settings whose values lie in the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.atomic_files import write_json
from common.errors import UserError, file_errors
from dataloaders.datasets.files import read_json, read_json_object
from engine.config import Config
from engine.saved_settings import BESIDE, PATHS, SETTINGS_FILE
from search.model_identity import settings_record
from search.models.saved import REPORT, is_local

Figures = Sequence[Mapping[str, Any]]  # a report for each language
# Of a report: no settings, file names or captions.
_KEPT = (
    *("format", "videos", "captions", "epoch", "job", "dataset", "split", "language", "videos_of_benchmark"),
    *("selected_on", "selected_epoch", "comparable", "protocol", "intervals", "RSum"),
)
_WEIGHTS = ("*.safetensors", "*.bin", "*.bin.*", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.ot", "*.onnx", ".*")


def write_settings(config: Config, folder: Path) -> None:
    """Write config.json, and the files that it names beside it."""
    settings = settings_record(config)
    del settings["cache_dir"]
    beside = []
    for name in PATHS:
        value = str(settings[name] or "").removeprefix("local-dir:")
        if is_local(value):
            settings[name] = _copy(Path(value), folder, name)
            beside.append(name)
    # The last two are how `read_saved_settings` knows a file of this project.
    content = {"library_name": "hmmc", BESIDE: beside, **settings, "do_train": True, "output_dir": "."}
    write_json(folder / SETTINGS_FILE, content)


def _copy(source: Path, folder: Path, name: str) -> str:
    """Copy a file or folder without its weights; returns its name in `folder`."""
    target = folder / (f"{name}.json" if source.is_file() else name)
    with file_errors(target, "cannot be written"):
        if source.is_file():
            shutil.copyfile(source, target)
        elif source.resolve() != target.resolve():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_WEIGHTS))
    return target.name


def figures_of(checkpoint: Path, sha256: str) -> Figures | None:
    """The reports on a checkpoint: of its saved folder, or of its run if that is about this very file."""
    saved, run = checkpoint.parent / REPORT, checkpoint.parent / "report" / "report.json"
    if saved.is_file():
        return [entry for entry in read_json(saved) if isinstance(entry, dict)]
    if not run.is_file():
        return None
    try:
        report = read_json_object(run)
        if report.get("checkpoint_sha256") != sha256:
            return None
        parts = [read_json_object(run.parent / path) for path in report.get("reports", {}).values()]
    except UserError:  # damaged: it says nothing about the weights
        return None
    return [
        {name: value for name, value in part.items() if name in _KEPT or "/" in name}
        for part in parts or [report]
    ]
