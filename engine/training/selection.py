"""--select_on: which list is evaluated when, and which epoch is reported (docs/EVALUATION.md).

`val` and `held_out` evaluate their own list after each epoch, `test` the test list, as published code does,
`last` none. The test list is read once, when the epoch is chosen; by `test` at the start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.atomic_files import write_text
from common.errors import UserError
from dataloaders.datasets.files import name_some
from dataloaders.datasets.registry import read_test_ids
from dataloaders.datasets.splits import MissingVideos
from dataloaders.examples import Examples
from dataloaders.frame_store.reader import FrameStore
from engine.checkpoint.weights import checkpoint_path
from engine.config import Config
from engine.data import (
    EvaluationData,
    InputSpec,
    TrainingData,
    absent_videos,
    build_evaluation_data,
    build_held_out_data,
    report_leaks,
)
from engine.distributed.world import World
from engine.evaluation.evaluate import build_evaluator, evaluate
from engine.evaluation.query_bank import build_bank
from engine.input_files import evaluated_elsewhere, evaluation_files
from engine.logs.metrics_jsonl import Result
from engine.logs.run_log import RunLog
from engine.report.run_report import report_evaluation
from modules.dual_encoder import DualEncoder

CHOOSE_BY = "t2v/R@1"
HOW = {
    "val": "on the validation list",
    "held_out": "on held-out training videos",
    "last": "the last epoch",
    "test": "on the test list itself, the published way, which flatters",
}


def choose(results: Sequence[Result], *, select_on: str, epochs: int) -> int:
    """The epoch to report: the last, or that with the best t2v/R@1 in `results` (the earliest of equals)."""
    if select_on == "last":
        return epochs - 1
    return int(max(results, key=lambda result: (result[CHOOSE_BY], -result["epoch"]))["epoch"])


class Selection:
    """The evaluations of a training run. Building one reads the list to choose on, and of the test list only
    whether it is there.

    Raises `UserError` where the test list's files are not in order, or the list to choose on is part of the
    training or of the test.
    """

    def __init__(
        self, config: Config, world: World, log: RunLog, *, spec: InputSpec, train: TrainingData
    ) -> None:
        self.config = config
        self.world = world
        self.log = log
        self.spec = spec
        self.train = train
        self._test: EvaluationData | None = None
        self._chosen_on = self._list_to_choose_on()
        if self._test is None:
            check_test_list(config, world, train.dataset.examples, self._examples(), log)
        self._bank = build_bank(config, world, spec) if config.qb_norm else None
        log.info(f"the checkpoint to report: {describe(config.select_on)} (--select_on {config.select_on})")

    @property
    def after_epochs(self) -> bool:
        """Whether there is anything to evaluate after an epoch."""
        return self._chosen_on is not None

    def evaluate(self, model: DualEncoder, *, epoch: int, checkpoint: Path) -> Result:
        """Evaluate the list to choose on. Collective."""
        assert self._chosen_on is not None
        split = self.config.select_on
        data = self._chosen_on
        evaluator = build_evaluator(self.config, self.world, data, self.log)
        path = str(checkpoint)
        evaluation = evaluate(
            self.config,
            model,
            evaluator,
            data,
            self.log,
            epoch=epoch,
            checkpoint=path,
            split=split,
            final=False,
        )
        return dict(evaluation.metrics.values)

    def report(self, model: DualEncoder, *, epoch: int, checkpoint: Path) -> Result:
        """Read the test list and evaluate the chosen epoch on it. Collective."""
        test = self._read_test()
        evaluation = evaluate(
            self.config,
            model,
            build_evaluator(self.config, self.world, test, self.log),
            test,
            self.log,
            epoch=epoch,
            checkpoint=str(checkpoint),
            bank=self._bank,
            chosen={"selected_on": self.config.select_on, "selected_epoch": epoch},
        )
        report_evaluation(self.config, evaluation, self.world, self.log)
        return dict(evaluation.metrics.values)

    def _list_to_choose_on(self) -> EvaluationData | None:
        config, world, log = self.config, self.world, self.log
        if config.select_on == "test":
            return self._read_test()
        if config.select_on == "held_out":
            return build_held_out_data(config, world, self.spec, log, self.train)
        if config.select_on == "val":
            data = build_evaluation_data(config, world, self.spec, log, split="val")
            _refuse_trained_on(data.examples, self.train.dataset.examples)
            return data
        return None

    def _read_test(self) -> EvaluationData:
        if self._test is None:
            self._test = build_evaluation_data(self.config, self.world, self.spec, self.log)
            if self.world.is_main:
                report_leaks(self.train.dataset.examples, self._test.examples, self.log)
        return self._test

    def _examples(self) -> Examples | None:
        return None if self._chosen_on is None else self._chosen_on.examples


def describe(select_on: str) -> str:
    """How an epoch is chosen, in words."""
    return HOW["last"] if select_on == "last" else f"the best {CHOOSE_BY} {HOW[select_on]}"


def write_best(output_dir: Path, *, epoch: int, value: float, select_on: str) -> None:
    """OUTPUT_DIR/best.json: the epoch to report so far, and what it scored on which list. Atomic."""
    content: dict[str, Any] = {
        "epoch": epoch,
        "path": str(checkpoint_path(output_dir, epoch)),
        "metric": CHOOSE_BY,
        "value": value,
        "split": "test" if select_on == "last" else select_on,
        "selected_on": select_on,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_text(output_dir / "best.json", text, durable=True)


def _refuse_trained_on(chosen_on: Examples, train: Examples) -> None:
    trained_on = set(train.video_ids)
    both = [video_id for video_id in chosen_on.video_ids if video_id in trained_on]
    if both:
        raise UserError(
            f"--select_on val: {len(both):,} of the {chosen_on.num_videos:,} validation videos are trained "
            f"on ({name_some(both)}); give a --train_list without them (MSR-VTT: MSRVTT_train.full.csv), or "
            "--select_on held_out"
        )


def check_test_list(
    config: Config, world: World, train: Examples, chosen_on: Examples | None, log: RunLog
) -> None:
    """Days of training must not end at a wrong path: the files exist, the store opens and has the videos.

    Only ids are read, where they stand in a list of their own. Test videos that are trained on are told as a
    warning. Raises `UserError` on all ranks alike: for what is absent, and where a test video is in the list
    `chosen_on` that the checkpoint is chosen on.
    """
    problem: str | None = None
    if world.is_main:
        try:
            _check(config, train, chosen_on, log)
        except ValueError as error:
            problem = f"{error}{evaluated_elsewhere(config)}"
    problem = world.broadcast(problem)
    if problem:
        raise UserError(problem)


def _check(config: Config, train: Examples, chosen_on: Examples | None, log: RunLog) -> None:
    files = evaluation_files(config, "test")
    ids = read_test_ids(config.test_dataset, files)
    store = FrameStore(files.store)
    if ids is None:
        return
    missing = MissingVideos(tuple(store.missing(ids)), len(ids))
    if missing.count == len(ids) or (missing and not config.allow_missing):
        raise UserError(absent_videos(store, missing))
    both = _shared(ids, chosen_on.video_ids if chosen_on else ())
    if both and config.select_on == "val":
        raise UserError(
            f"--select_on val: {len(both):,} of the {len(ids):,} videos in {files.list} are in the "
            f"validation list too ({name_some(both)}); choose by --select_on held_out, or test on others"
        )
    both = _shared(ids, train.video_ids)
    if both:
        log.warning(f"test videos that are trained on: {len(both):,} ({name_some(both)})")


def _shared(ids: list[str], others: Iterable[str]) -> list[str]:
    known = set(others)
    return [video_id for video_id in ids if video_id in known]
