"""`--select_on`: which list is evaluated after each epoch, and which epoch is reported (docs/EVALUATION.md).

After each epoch `val` and `held_out` evaluate a list of their own, `test` evaluates the test list as the
published code does, and `last` evaluates nothing. `test` reads the captions and frames of the test list at
the start, the others read them once, when the epoch is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.atomic_files import write_json
from common.errors import UserError
from dataloaders.datasets.files import name_some
from dataloaders.datasets.registry import dataset_spec, read_test_ids
from dataloaders.examples import Examples
from engine.checkpoint.files import checkpoint_path
from engine.config import Config
from engine.data import (
    EvaluationData,
    Split,
    absent_videos,
    build_evaluation_data,
    build_held_out_data,
    chance_recall,
    read_evaluation_split,
    report_leaks,
)
from engine.distributed.world import World
from engine.evaluation.evaluate import evaluate
from engine.evaluation.query_bank import build_banks
from engine.frame_sources import missing_of_list, open_frames
from engine.input_files import eval_dataset_hint, evaluation_files, how_to_store
from engine.input_spec import InputSpec
from engine.loaders import TrainingData, TrainingInput
from engine.logs.metrics_jsonl import Result
from engine.logs.run_log import RunLog
from engine.report.run_report import report_evaluation
from modules.dual_encoder import DualEncoder

CHOOSE_BY = "t2v/R@1"
DESCRIPTIONS = {
    "val": "on the validation list",
    "held_out": "on held-out training videos",
    "last": "the last epoch",
    "test": "on the test list itself, the published way, which is too optimistic",
}


def choose(results: Sequence[Result], *, select_on: str, epochs: int) -> int:
    """The epoch to report: the last, or the one with the best t2v/R@1 in `results`, the earliest in a tie."""
    if select_on == "last":
        return epochs - 1
    return int(max(results, key=lambda result: (result[CHOOSE_BY], -result["epoch"]))["epoch"])


class Selection:
    """The evaluations of a training run. The constructor reads the list that the checkpoint is chosen by.

    `read` is that list, if `read_list_to_choose_on` has read it before there was a model.
    It checks the files of the test list without reading captions or frames. Raises `UserError` where a file
    is absent or wrong, or where the list to choose by shares videos with the training or test list.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        log: RunLog,
        *,
        spec: InputSpec,
        train: TrainingInput,
        read: Split | None = None,
    ) -> None:
        self.config = config
        self.world = world
        self.log = log
        self.spec = spec
        self.train = train
        self._read = read
        self._test: EvaluationData | None = None
        self._choose_on = self._list_to_choose_on()
        if self._test is None:
            choose_on = None if self._choose_on is None else self._choose_on.examples
            check_test_list(config, world, train.examples, choose_on, log)
        self._banks = build_banks(config, world, spec) if config.qb_norm else None
        log.info(f"the checkpoint to report: {describe(config.select_on)} (--select_on {config.select_on})")

    @property
    def after_epochs(self) -> bool:
        """Whether a list is evaluated after each epoch."""
        return self._choose_on is not None

    def evaluate(self, model: DualEncoder, *, epoch: int, checkpoint: Path) -> Result:
        """Evaluate the list that the checkpoint is chosen by. Collective."""
        data = self._choose_on
        assert data is not None
        evaluation = evaluate(
            self.config,
            self.world,
            model,
            data,
            self.log,
            epoch=epoch,
            checkpoint=str(checkpoint),
            split=self.config.select_on,
            final=False,
        )
        return dict(evaluation.values)

    def report(self, model: DualEncoder, *, epoch: int, checkpoint: Path) -> Result:
        """Read the test list and evaluate the chosen epoch on it. Collective."""
        test = self._read_test()
        evaluation = evaluate(
            self.config,
            self.world,
            model,
            test,
            self.log,
            epoch=epoch,
            checkpoint=str(checkpoint),
            banks=self._banks,
            chosen={"selected_on": self.config.select_on, "selected_epoch": epoch},
        )
        report_evaluation(self.config, evaluation, self.world, self.log)
        return dict(evaluation.values)

    def _list_to_choose_on(self) -> EvaluationData | None:
        config, world, log = self.config, self.world, self.log
        if config.select_on == "test":
            return self._read_test()
        if config.select_on == "held_out":
            assert isinstance(self.train, TrainingData)
            return build_held_out_data(config, world, self.spec, log, self.train)
        if config.select_on == "val":
            data = build_evaluation_data(config, world, self.spec, log, self._list("val"))
            _refuse_trained_on(config, data.examples, self.train.examples)
            return data
        return None

    def _list(self, split: str) -> Split:
        """The list, already read if the checkpoint is chosen by it."""
        if self._read is not None and split == self.config.select_on:
            return self._read
        return read_evaluation_split(self.config, self.world, self.log, split=split)

    def _read_test(self) -> EvaluationData:
        if self._test is None:
            self._test = build_evaluation_data(
                self.config, self.world, self.spec, self.log, self._list("test")
            )
            examples = self.train.examples
            if self.world.is_main and examples is not None:
                report_leaks(examples, self._test.examples, self.log)
        return self._test


def read_list_to_choose_on(config: Config, world: World, log: RunLog) -> Split | None:
    """The list that the checkpoint is chosen by, if it has files of its own. Collective, without a model.

    Otherwise checks that the test list can be evaluated after the training. Raises `UserError`.
    """
    if config.select_on in ("test", "val"):
        return read_evaluation_split(config, world, log, split=config.select_on)
    problem: str | None = None
    if world.is_main:
        try:
            _require_test_videos(config)
        except UserError as error:
            problem = f"{error}{eval_dataset_hint(config)}"
    problem = world.broadcast(problem)
    if problem:
        raise UserError(problem)
    return None


def describe(select_on: str) -> str:
    """How the epoch is chosen, in words."""
    description = DESCRIPTIONS[select_on]
    return description if select_on == "last" else f"the best {CHOOSE_BY} {description}"


def write_best(output_dir: Path, *, epoch: int, value: float, select_on: str) -> None:
    """Write OUTPUT_DIR/best.json, atomically: the best epoch so far, its score, and the evaluated list."""
    content: dict[str, Any] = {
        "epoch": epoch,
        "path": str(checkpoint_path(output_dir, epoch)),
        "metric": CHOOSE_BY,
        "value": value,
        "split": "test" if select_on == "last" else select_on,
        "selected_on": select_on,
    }
    write_json(output_dir / "best.json", content, durable=True)


def _refuse_trained_on(config: Config, validation: Examples, train: Examples | None) -> None:
    shared = [] if train is None else _shared(validation.video_ids, train.video_ids)
    if shared:
        other_list = dataset_spec(config.dataset).list_without_validation
        raise UserError(
            f"--select_on val: {len(shared):,} of the {validation.num_videos:,} validation videos "
            f"are trained on ({name_some(shared)}); give a --train_list without them"
            f"{f' ({other_list})' if other_list else ''}, or use --select_on held_out"
        )


def check_test_list(
    config: Config, world: World, train: Examples | None, choose_on: Examples | None, log: RunLog
) -> None:
    """Check before the training that the test list can be evaluated after it: files, frame store, videos.

    If the list is a separate file, only its video ids are read. Warns about test videos that are
    trained on. Raises `UserError` on all ranks where something is absent, or where a test video is also in
    `choose_on`, the list that the checkpoint is chosen by.
    """
    problem: str | None = None
    if world.is_main:
        try:
            _check_test_files(config, train, choose_on, log)
        except UserError as error:
            problem = f"{error}{eval_dataset_hint(config)}"
    problem = world.broadcast(problem)
    if problem:
        raise UserError(problem)


def _require_test_videos(config: Config) -> list[str] | None:
    """The ids of the test list, None if they are read with the captions.

    Raises `UserError` where a file is absent, or videos in the frame store.
    """
    files = evaluation_files(config, "test")
    ids = read_test_ids(config.test_dataset, files, language=config.language)
    if ids is None:
        open_frames(config, config.test_dataset, files)
        return None
    found, missing, path = missing_of_list(config, config.test_dataset, files, ids)
    if missing.count == len(ids) or (missing and not config.allow_missing):
        raise UserError(absent_videos(path, missing, how_to_store(config.test_dataset, files)))
    return list(found)


def _check_test_files(
    config: Config, train: Examples | None, choose_on: Examples | None, log: RunLog
) -> None:
    files = evaluation_files(config, "test")
    ids = _require_test_videos(config)
    if ids is None:
        return
    log.info(f"test list: {len(ids):,} videos; {chance_recall(len(ids))}")
    if choose_on is not None and config.select_on == "val":
        validated = _shared(ids, choose_on.video_ids)
        if validated:
            raise UserError(
                f"--select_on val: {len(validated):,} of the {len(ids):,} videos in "
                f"{files.list or files.annotations} are also in "
                f"the validation list ({name_some(validated)}); use --select_on held_out or another test list"
            )
    trained_on = [] if train is None else _shared(ids, train.video_ids)
    if trained_on:
        log.warning(f"test videos that are trained on: {len(trained_on):,} ({name_some(trained_on)})")


def _shared(ids: Iterable[str], others: Iterable[str]) -> list[str]:
    other_ids = set(others)
    return [video_id for video_id in ids if video_id in other_ids]
