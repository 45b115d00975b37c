"""Evaluate all checkpoints of a folder on one split: `--do_eval --init_model FOLDER`.

`tools/watch_checkpoints.py` uses it too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError, one_line
from engine.checkpoint.files import CHECKPOINT, epoch_of, list_checkpoints, read_state
from engine.config import Config
from engine.data import EvaluationData, build_evaluation_data, read_evaluation_split
from engine.distributed.world import World
from engine.evaluation.evaluate import evaluate
from engine.evaluation.query_bank import build_banks
from engine.input_spec import input_spec
from engine.logs.run_log import RunLog
from engine.model_setup import build_model, load_checkpoint
from engine.output_folder import save_evaluation_settings
from modules.dual_encoder import DualEncoder

COLUMNS = tuple(f"{way}/{name}" for way in ("t2v", "v2t") for name in ("R@1", "R@5", "R@10", "MeanR"))


class CheckpointFolder:
    """Evaluates checkpoints one after another. It builds the model and reads the split only once.

    `results` holds the metrics of each checkpoint, `bad` the error of each that could not be evaluated.
    """

    def __init__(self, config: Config, world: World, log: RunLog, *, split: str = "test") -> None:
        # Each checkpoint would overwrite the report, features and similarity of the one before.
        self.config = dataclasses.replace(config, report=False, save_features=None, save_similarity=False)
        self.world = world
        self.log = log
        self.split = split
        self.results: dict[Path, Mapping[str, float]] = {}
        self.bad: dict[Path, str] = {}
        self._model: DualEncoder | None = None
        self._data: EvaluationData | None = None

    def evaluate(self, path: Path) -> bool:
        """Evaluate one checkpoint. Collective.

        If the file is damaged or holds another model, log a warning that names it and return False. Raises
        `UserError` for other mistakes.
        """
        problem = None
        try:
            if epoch_of(path) is None:
                raise UserError(f"{path}: not {CHECKPOINT}NUMBER, so no checkpoint of a run")
            self._load(path)
        except UserError as error:
            if str(path) not in str(error):  # about another file, for instance of the tokenizer
                raise
            problem = one_line(error)
        problems = [text for text in self.world.gather(problem) if text]
        if problems:
            self.bad[path] = problems[0]
            self.log.warning(f"left out: {problems[0]}")
            return False
        self._evaluate(path)
        return True

    def table(self) -> list[str]:
        """A table for the log: one line for each checkpoint."""
        width = max([len(path.name) for path in self.results], default=0)
        lines = [" " * width + "".join(f"{name:>11}" for name in COLUMNS)]
        for path in sorted(self.results, key=lambda path: (epoch_of(path) or 0, path.name)):
            values = "".join(f"{self.results[path][name]:11.1f}" for name in COLUMNS)
            lines.append(f"{path.name:{width}}{values}")
        lines += [f"left out: {problem}" for problem in self.bad.values()]
        return lines

    def _load(self, path: Path) -> None:
        if self._model is not None:
            load_checkpoint(self.config, self._model, path, self.log)
            return
        read_state(path)  # a bad file is reported as such even if the model cannot be built
        model = build_model(dataclasses.replace(self.config, init_model=str(path)), self.log)
        self._model = model.to(self.world.device)

    def _evaluate(self, path: Path) -> None:
        assert self._model is not None
        if self._data is None:
            spec = input_spec(self.config, self._model)
            read = read_evaluation_split(self.config, self.world, self.log, split=self.split)
            self._data = build_evaluation_data(self.config, self.world, spec, self.log, read)
            self._banks = build_banks(self.config, self.world, spec) if self.config.qb_norm else None
            save_evaluation_settings(self.config, self.world)
        self.log.info(f"evaluating {path}")
        evaluation = evaluate(
            self.config,
            self.world,
            self._model,
            self._data,
            self.log,
            epoch=epoch_of(path),
            checkpoint=str(path),
            split=self.split,
            banks=self._banks,
        )
        self.results[path] = evaluation.values


def evaluate_folder(config: Config, world: World, log: RunLog) -> int:
    """Evaluate every checkpoint of the folder --init_model and log a table.

    Returns the exit code, which is 1 if a file was left out. Raises `UserError` if there is no checkpoint.
    """
    folder = Path(str(config.init_model)).expanduser()
    paths = world.broadcast(list_checkpoints(folder) if world.is_main else None)
    if not paths:
        raise UserError(f"--init_model {folder}: no {CHECKPOINT}* in this folder")
    checkpoints = CheckpointFolder(config, world, log)
    for path in paths:
        checkpoints.evaluate(path)
    for line in checkpoints.table():
        log.info(line)
    return 1 if checkpoints.bad else 0
