"""A run's output folder: its settings and its evaluations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FileError, UserError
from common.languages import languages_of
from dataloaders.datasets.files import read_json_lines, read_json_object
from engine.logs.metrics_jsonl import check_result, is_of_training, metrics_of_language
from engine.saved_settings import EVALUATION_SETTINGS_FILE, SETTINGS_FILE, check_settings
from tools.results.published import COLUMNS, DIRECTIONS

CHECKPOINT = "pytorch_model.bin."  # followed by the epoch, counted from 0
METRICS = tuple(f"{direction}/{column}" for direction in DIRECTIONS for column in COLUMNS)
CHOOSE_BY = "t2v/R@1"  # the published code reports the best epoch by this metric
HOW_CHOSEN = {
    "val": "chosen on the validation list",
    "held_out": "chosen on held-out training videos",
    "last": "the last",
    "test": f"best {CHOOSE_BY} on the test list itself",
}
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One output folder and one of its evaluations."""

    folder: Path
    config: Settings
    trained_by: Settings | None  # settings of the training of the weights; None if unknown
    evaluation: Mapping[str, Any]  # one line of metrics.jsonl
    epochs: int  # number of epochs it was chosen from; 0 for a run that only evaluates

    @property
    def seed(self) -> int | None:
        return None if self.trained_by is None else self.trained_by["seed"]

    @property
    def trained_in(self) -> Path:
        """The output folder of the training of the weights; this folder if that is unknown."""
        is_this_run = self.trained_by is None or self.trained_by is self.config
        return self.folder if is_this_run else Path(self.config["init_model"]).parent

    def by_language(self) -> dict[str, Run]:
        """The run with the evaluation of each of its languages, as if only that had been evaluated."""
        languages = languages_of(self.evaluation["language"])
        if len(languages) == 1:
            return {languages[0]: self}
        about = {name: value for name, value in self.evaluation.items() if "/" not in name}
        captions = self.evaluation.get("captions_by_language", {})
        return {
            language: dataclasses.replace(
                self,
                evaluation={
                    **about,
                    **metrics_of_language(self.evaluation, language),
                    "language": language,
                    "captions": captions.get(language),
                },
            )
            for language in languages
        }

    def describe(self) -> str:
        """Folder, seed, epoch and how the epoch was chosen, for a note."""
        seed = "seed unknown" if self.seed is None else f"seed {self.seed}"
        if not self.epochs:
            return f"{self.folder}: {seed}, evaluation only"
        number = self.evaluation["epoch"]
        how = HOW_CHOSEN.get(self.evaluation.get("selected_on", ""))
        file = f"{CHECKPOINT}{number}" + (f"; {how}" if how else "")
        return f"{self.folder}: {seed}, epoch {number + 1} of {self.epochs} ({file})"


def read_run(folder: Path, *, epoch: str = "reported") -> Run:
    """Read one output folder.

    `epoch` is "reported" (chosen by the run; "best" if it did not choose), "best" (by t2v/R@1 on the test
    list), "last", or the number of a checkpoint. In the folder of a training evaluations do not count.
    Raises `UserError` if a file is missing, unreadable or does not have the epoch.
    """
    config = read_run_settings(folder)
    training = _is_training(config)
    evaluations, final = _evaluations(folder / "metrics.jsonl", training=training)
    epochs = config["epochs"] if final and "epochs" in config else len(evaluations)
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
    """A run's config.json. Raises `UserError` if it is missing or something else."""
    if not path.is_file():
        raise FileError(f"{path}: no such file; give the output folder of a run")
    config = read_json_object(path)
    needed = ("do_pretrain", "do_train", "do_eval", "dataset", "language", "init_model", "seed")
    missing = [name for name in needed if name not in config]
    if missing:
        raise UserError(f"{path}: not the settings of a run, {missing[0]} is missing")
    return check_settings(config, path)


def read_run_settings(folder: Path) -> Settings:
    """The settings of the run in an output folder: of its training, if there was one, else of an evaluation.

    Raises `UserError` if the folder has none.
    """
    training, evaluation = folder / SETTINGS_FILE, folder / EVALUATION_SETTINGS_FILE
    if not training.is_file() and evaluation.is_file():
        return read_settings(evaluation)
    config = read_settings(training)
    if not _is_training(config):
        # Older versions let an evaluation replace the settings of the training in its folder.
        return _settings_in_state(folder) or config
    return config


def _settings_in_state(folder: Path) -> Settings | None:
    """The settings in the newest training state of a folder, None without a state that can be read."""
    if not any(folder.glob("training_state.*.pt")):
        return None
    from engine.checkpoint.states import newest_state, read_state_file  # torch takes seconds

    path, _ = newest_state(folder)
    return None if path is None else read_state_file(path)["config"]


def _is_training(config: Settings) -> bool:
    return bool(config["do_train"] or config["do_pretrain"])


def settings_beside(checkpoint: str | None) -> Settings | None:
    """Settings of the run that wrote `checkpoint`, if the file is still in that run's folder."""
    folder = Path(checkpoint).parent if checkpoint else None
    return read_run_settings(folder) if folder is not None and (folder / SETTINGS_FILE).is_file() else None


def _evaluations(path: Path, *, training: bool) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """(test-list evaluations of the folder's last run, one per epoch, in order; the final one or None).

    The final evaluation is the line in which the run reports the epoch that it chose. A run that is started
    again in the same folder appends: a repeated epoch replaces itself and all later epochs.
    """
    if not path.is_file():
        raise FileError(f"{path}: no such file; a run writes it when it evaluates")
    evaluations: list[dict[str, Any]] = []
    final: dict[str, Any] | None = None
    for number, entry in read_json_lines(path, growing=True):
        _check_metrics(entry, where=f"{path}, line {number}")
        if training and not is_of_training(entry):  # someone evaluated in a training run's folder
            continue
        if "selected_on" in entry:
            final = entry
            continue
        final = None  # the run was started again
        if training:
            evaluations = [earlier for earlier in evaluations if earlier["epoch"] < entry["epoch"]]
        evaluations.append(entry)
    evaluations = [entry for entry in evaluations if entry.get("split", "test") == "test"]
    if final is not None and all(entry["epoch"] != final["epoch"] for entry in evaluations):
        evaluations = sorted([*evaluations, final], key=lambda entry: entry["epoch"])
    if not evaluations:
        raise UserError(f"{path}: holds no evaluation of this run yet")
    return evaluations, final


def _check_metrics(entry: Mapping[str, Any], *, where: str) -> None:
    check_result(entry, where)
    for name in METRICS:
        if name not in entry:
            raise UserError(f"{where}: not an evaluation, {name} is missing")
        if not isinstance(entry[name], (int, float)) or not math.isfinite(entry[name]):
            raise UserError(f"{where}: {name} is {entry[name]}, not a number")


def _choose(evaluations: list[dict[str, Any]], epoch: str, *, folder: Path) -> dict[str, Any]:
    if epoch == "last":
        return evaluations[-1]
    if epoch in ("best", "reported"):
        return max(evaluations, key=lambda entry: entry[CHOOSE_BY])  # the first of tied ones
    for entry in evaluations:
        if entry["epoch"] == int(epoch):
            return entry
    evaluated = ", ".join(f"{CHECKPOINT}{entry['epoch']}" for entry in evaluations)
    raise UserError(f"--epoch {epoch}: {folder} did not evaluate {CHECKPOINT}{epoch}, only {evaluated}")
