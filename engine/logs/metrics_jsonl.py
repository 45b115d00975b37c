"""metrics.jsonl, one JSON line for each evaluation: read it, and cut it back when a run is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.atomic_files import write_text
from common.errors import UserError, file_errors
from common.json_text import parse_json

Result = dict[str, Any]


def read_results(path: Path) -> list[Result]:
    """The results in a metrics.jsonl. Other lines, as a killed run may leave, are skipped."""
    if not path.exists():
        return []
    with file_errors(path):
        lines = path.read_bytes().split(b"\n")[:-1]
    results = []
    for line in lines:
        try:
            result = parse_json(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        if isinstance(result, dict):
            results.append(result)
    return results


def check_result(result: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` that begins with `where` if an object of a metrics.jsonl is not an evaluation."""
    for name in ("epoch", "dataset", "language"):
        if name not in result:
            raise UserError(f"{where}: not an evaluation, {name} is missing")
    epoch = result["epoch"]
    if epoch is not None and (not isinstance(epoch, int) or isinstance(epoch, bool)):
        raise UserError(f"{where}: epoch is {epoch!r}, it must be a whole number or null")
    for name in ("dataset", "language", "split", "selected_on"):
        if not isinstance(result.get(name, ""), str):
            raise UserError(f"{where}: {name} is {result[name]!r}, it must be text")


def metrics_of_language(result: Mapping[str, Any], language: str) -> dict[str, Any]:
    """The metrics of one language in a result of a bilingual model, by their usual names."""
    prefix = f"{language}/"
    return {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}


def is_of_training(result: Result) -> bool:
    """Whether a training wrote the result, and not an evaluation in its folder."""
    # Older files do not say it. There an evaluation of one checkpoint has no epoch.
    return bool(result["job"] != "eval" if "job" in result else result.get("epoch") is not None)


def is_final(result: Result) -> bool:
    """Whether the result is that of the chosen epoch on the test list, the last of a run."""
    return "selected_on" in result


def drop_results_after(path: Path, epoch: int, *, ended: bool) -> list[Result]:
    """Delete a training's results of epochs after `epoch`, atomically. Returns those of it that stay.

    Its final result stays only where all epochs are trained (`ended`). Results of evaluations stay.
    """
    results = [
        result
        for result in read_results(path)
        if not is_of_training(result) or (not _is_later(result, epoch) and (ended or not is_final(result)))
    ]
    if path.exists():
        lines = (json.dumps(result, ensure_ascii=False) + "\n" for result in results)
        write_text(path, "".join(lines), durable=True)
    return list(filter(is_of_training, results))


def _is_later(result: Result, epoch: int) -> bool:
    return isinstance(result.get("epoch"), int) and result["epoch"] > epoch
