"""The curves of a run: the numbers of its steps.jsonl and metrics.jsonl by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import read_json_lines
from engine.logs.metrics_jsonl import check_result, is_of_training
from engine.logs.steps_jsonl import Record, read_steps

AXES = ("step", "epoch", "hours")
_NOT_CURVES = ("step", "epoch", "seconds")


@dataclass(frozen=True)
class Point:
    """A value and its position on three axes (None: unknown); `epoch` counts finished epochs, as in 1.5."""

    step: float | None
    epoch: float | None
    hours: float | None
    value: float  # NaN if the run recorded a number that is not finite


@dataclass
class RunCurves:
    """One output folder. `evaluated` are the metrics of a run that only evaluated; they have no position."""

    label: str
    folder: Path
    curves: dict[str, list[Point]] = field(default_factory=dict)
    evaluated: dict[str, float] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not self.curves and not self.evaluated


def read_curves(folder: Path, *, label: str) -> RunCurves:
    """Read steps.jsonl and metrics.jsonl, as far as the run has written them.

    Raises `UserError` if the folder does not exist or a line cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the output folders of runs")
    run = RunCurves(label, folder)
    steps, metrics = folder / "steps.jsonl", folder / "metrics.jsonl"
    records = read_steps(steps) if steps.is_file() else []
    evaluations = _evaluations(metrics) if metrics.is_file() else []
    ends = _ends_of_epochs(records, evaluations)
    for record in records:
        _add(run, record, skip=_NOT_CURVES, at=_position(record, ends))
    for entry in evaluations:
        _add_evaluation(run, entry, ends)
    return run


def metric_name(entry: Mapping[str, Any], name: str) -> str:
    """The metric's name with its test set, so that two test sets never share a panel."""
    return f"{' '.join(_measured_on(entry))}: {name}"


def _measured_on(entry: Mapping[str, Any]) -> list[str]:
    """Data set, language, and the split if it is not the test split."""
    test_set = [str(entry["dataset"]), str(entry["language"])]
    return test_set if entry.get("split", "test") == "test" else [*test_set, str(entry["split"])]


def _position(record: Record, ends: Mapping[int, Record]) -> tuple[float, float | None, float | None]:
    """Step, finished epochs and hours of a record."""
    seconds = record.get("seconds")
    hours = seconds / 3600 if isinstance(seconds, int | float) else None
    # All epochs are as long as the first one, whose length is known once it is over.
    epochs = record["step"] / ends[0]["step"] if 0 in ends else None
    return record["step"], epochs, hours


def _ends_of_epochs(records: list[Record], evaluations: list[dict[str, Any]]) -> dict[int, Record]:
    """The last record of every finished epoch: one that was evaluated or that another epoch follows."""
    last = {record["epoch"]: record for record in records if isinstance(record.get("epoch"), int)}
    evaluated = {entry["epoch"] for entry in evaluations}
    return {epoch: record for epoch, record in last.items() if epoch < max(last) or epoch in evaluated}


def _add(run: RunCurves, record: Record, *, skip: tuple[str, ...], at: tuple[Any, Any, Any]) -> None:
    for name, value in _numbers(record):
        if name not in skip:
            run.curves.setdefault(name, []).append(Point(*at, value))


def _add_evaluation(run: RunCurves, entry: dict[str, Any], ends: Mapping[int, Record]) -> None:
    figures = {name: value for name, value in _numbers(entry) if "/" in name}
    epoch = entry["epoch"]
    if epoch is None:
        run.evaluated |= {metric_name(entry, name): value for name, value in figures.items()}
        return
    end = ends.get(epoch)
    step, _, hours = _position(end, ends) if end else (None, None, None)
    for name, value in figures.items():
        points = run.curves.setdefault(metric_name(entry, name), [])
        points.append(Point(step, epoch + 1.0, hours, value))


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if value is None:
            yield name, math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _evaluations(path: Path) -> list[dict[str, Any]]:
    """The valid lines of metrics.jsonl: a repeated epoch replaces itself and all later epochs."""
    valid: list[dict[str, Any]] = []
    entries = list(read_json_lines(path, growing=True))
    for number, entry in entries:
        check_result(entry, f"{path}, line {number}")
    trained = any(is_of_training(entry) for _, entry in entries)
    for _, entry in entries:
        if trained and entry["epoch"] is not None and not is_of_training(entry):
            continue  # of an evaluation of all checkpoints, in the folder of their training
        if "selected_on" in entry and any(_same_epoch(earlier, entry) for earlier in valid):
            continue  # the epoch that the run reports, evaluated again
        if entry["epoch"] is not None:
            valid = [earlier for earlier in valid if _stays(earlier, entry)]
        valid.append(entry)
    return valid


def _same_epoch(earlier: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return _measured_on(earlier) == _measured_on(entry) and earlier["epoch"] == entry["epoch"]


def _stays(earlier: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether `earlier` is still valid after `entry`: it has another test set or an earlier epoch."""
    return (
        _measured_on(earlier) != _measured_on(entry)
        or earlier["epoch"] is None
        or earlier["epoch"] < entry["epoch"]
    )
