"""metrics.jsonl as a resumed run finds it: one JSON line an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.atomic_files import write_text

Result = dict[str, Any]


def read_results(path: Path) -> list[Result]:
    """The whole lines of a metrics.jsonl; one that a killed run left half written is no result."""
    if not path.exists():
        return []
    results = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            result = json.loads(line)
        except ValueError:  # UnicodeDecodeError is one too
            continue
        if isinstance(result, dict):
            results.append(result)
    return results


def is_final(result: Result) -> bool:
    """Whether a line is the run's end: the chosen epoch on the test list."""
    return "selected_on" in result


def drop_results_after(path: Path, epoch: int, *, ended: bool) -> list[Result]:
    """Keep the lines of epochs up to `epoch`, and those of none, atomically. Returns what stays.

    A final line stays only where all epochs are trained (`ended`).
    """
    found = [result for result in read_results(path) if not _is_later(result, epoch)]
    kept = [result for result in found if ended or not is_final(result)]
    if path.exists():
        write_text(
            path, "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in kept), durable=True
        )
    return kept


def _is_later(result: Result, epoch: int) -> bool:
    return isinstance(result.get("epoch"), int) and result["epoch"] > epoch
