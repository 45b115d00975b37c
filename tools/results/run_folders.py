"""What a run left in its output folder: its settings and its evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.results.published import COLUMNS, DIRECTIONS

METRICS = tuple(f"{direction}/{column}" for direction in DIRECTIONS for column in COLUMNS)
CHOOSE_BY = "t2v/R@1"  # METHOD 6: the best is reported
CHOSEN = {
    "val": "chosen on the validation list",
    "held_out": "chosen on held-out training videos",
    "last": "the last",
    "test": f"best {CHOOSE_BY} on the test list itself",
}
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One output folder and the evaluation chosen from it."""

    folder: Path
    config: Settings
    trained_by: Settings | None  # settings of the training that made the weights; None where unknown
    evaluation: Mapping[str, Any]  # one line of metrics.jsonl
    epochs: int  # epochs it was chosen from; 0 for a run that only evaluates

    @property
    def seed(self) -> int | None:
        return None if self.trained_by is None else self.trained_by["seed"]

    @property
    def made_in(self) -> Path:
        """The folder of the training that made the weights; this folder where that is unknown."""
        training = self.trained_by is None or self.trained_by is self.config
        return self.folder if training else Path(self.config["init_model"]).parent

    def describe(self) -> str:
        """Folder, seed, epoch and how that was chosen, for a footnote."""
        seed = "seed unknown" if self.seed is None else f"seed {self.seed}"
        epoch = f"epoch {self.evaluation['epoch']} of {self.epochs}" if self.epochs else "evaluation only"
        if self.epochs and self.evaluation.get("selected_on") in CHOSEN:
            epoch += f" ({CHOSEN[self.evaluation['selected_on']]})"
        return f"{self.folder}: {seed}, {epoch}"


def read_run(folder: Path, *, epoch: str = "reported") -> Run:
    """Read one output folder; `epoch`: "reported" (as the run chose; "best" where it does not say), "best"
    (by t2v/R@1 on the test list), "last", or a number from 0.

    Raises `ValueError` naming the file that is missing, unreadable or without the epoch.
    """
    config = read_settings(folder / "config.json")
    training = bool(config["do_train"] or config["do_pretrain"])
    evaluations, final = _evaluations(folder / "metrics.jsonl", training=training)
    epochs = int(config["epochs"]) if final and "epochs" in config else len(evaluations)
    return Run(
        folder=folder,
        config=config,
        trained_by=config if training else settings_beside(config["init_model"]),
        evaluation=final
        if training and final is not None and epoch == "reported"
        else _choose(evaluations, epoch if training else "last", folder=folder),
        epochs=epochs if training else 0,
    )


def read_settings(path: Path) -> Settings:
    """A run's config.json. Raises `ValueError` when it is absent or not one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the output folder of a run")
    config = _json(path.read_text(encoding="utf-8"), where=str(path))
    needed = ("do_pretrain", "do_train", "do_eval", "dataset", "language", "init_model", "seed")
    missing = [name for name in needed if name not in config]
    if missing:
        raise ValueError(f"{path}: not the settings of a run, {missing[0]} is missing")
    return config


def settings_beside(checkpoint: str | None) -> Settings | None:
    """Settings of the run that wrote `checkpoint`, if it still lies in that run's folder."""
    path = Path(checkpoint).parent / "config.json" if checkpoint else None
    return read_settings(path) if path is not None and path.is_file() else None


def _evaluations(path: Path, *, training: bool) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The lines of metrics.jsonl on the test list that belong to the folder's last run, an epoch each, oldest
    first; and the one in which the run reports the epoch that it chose.

    A run started again in the same folder appends: an epoch that comes a second time makes void what an
    earlier start wrote for it and for later epochs.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a run writes it when it evaluates")
    found: list[dict[str, Any]] = []
    final: dict[str, Any] | None = None
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = _json(line, where=f"{path} line {number}")
        _check_metrics(entry, where=f"{path} line {number}")
        if training and entry["epoch"] is None:  # someone evaluated in a training run's folder
            continue
        if "selected_on" in entry:
            final = entry
            continue
        final = None  # started again
        if training:
            found = [earlier for earlier in found if earlier["epoch"] < entry["epoch"]]
        found.append(entry)
    found = [entry for entry in found if entry.get("split", "test") == "test"]
    if final is not None and all(entry["epoch"] != final["epoch"] for entry in found):
        found = sorted([*found, final], key=lambda entry: entry["epoch"])
    if not found:
        raise ValueError(f"{path}: holds no evaluation of this run yet")
    return found, final


def _json(text: str, *, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where}: must be a JSON object")
    return content


def _check_metrics(entry: Mapping[str, Any], *, where: str) -> None:
    for name in ("epoch", "dataset", "language", *METRICS):
        if name not in entry:
            raise ValueError(f"{where}: not an evaluation, {name} is missing")
    for name in METRICS:
        if not isinstance(entry[name], (int, float)) or not math.isfinite(entry[name]):
            raise ValueError(f"{where}: {name} is {entry[name]}, not a number")


def _choose(evaluations: list[dict[str, Any]], epoch: str, *, folder: Path) -> dict[str, Any]:
    if epoch == "last":
        return evaluations[-1]
    if epoch in ("best", "reported"):
        return max(evaluations, key=lambda entry: entry[CHOOSE_BY])  # the earliest of equals
    for entry in evaluations:
        if entry["epoch"] == int(epoch):
            return entry
    known = ", ".join(str(entry["epoch"]) for entry in evaluations)
    raise ValueError(f"--epoch {epoch}: {folder} evaluated epochs {known}")
