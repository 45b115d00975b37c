"""steps.jsonl, one JSON line for each reported step: write, cut back and read it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.atomic_files import atomic_open
from common.errors import UserError, file_errors
from common.json_text import parse_json

Record = dict[str, Any]


class StepRecords:
    """The file of one run. A line that a killed run left half written is removed.

    Invariant after `truncate(step)`: the file has no later step, and every line is a complete JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_line_complete = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line. A number that is not finite becomes null, because JSON has no NaN.

        Raises `FileError` where the file cannot be written, as on a full disk.
        """
        line = json.dumps({name: _finite(value) for name, value in record.items()}, ensure_ascii=False)
        with file_errors(self.path, "cannot be written"):
            if not self._last_line_complete:
                _drop_half_line(self.path)
                self._last_line_complete = True
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def truncate(self, step: int) -> Record | None:
        """Delete the lines of steps after `step`, atomically. Returns the last record that stays."""
        if not self.path.exists():
            return None
        remaining = [record for record in read_steps(self.path) if record["step"] <= step]
        with atomic_open(self.path, durable=True) as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in remaining)
        self._last_line_complete = True
        return remaining[-1] if remaining else None


def read_steps(path: Path) -> list[Record]:
    """The records of a steps.jsonl in increasing order of their steps.

    A half-written last line is skipped: the run was killed, or is writing it now. Where the steps start again
    at a lower number, another run used the folder: its records replace the earlier ones from that step on.
    Raises `UserError` where the file cannot be read or a line is not a record.
    """
    records: list[Record] = []
    for record in _lines(path):
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return records


def _lines(path: Path) -> Iterator[Record]:
    # Bytes, because a line may be cut within a character. Complete lines end with a newline.
    with file_errors(path):
        lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            record = None
        step = record.get("step") if isinstance(record, dict) else None
        if not isinstance(step, int) or isinstance(step, bool):
            raise UserError(f'{path} line {number}: not a JSON object with a whole number as "step"')
        yield record


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_half_line(path: Path) -> None:
    """Cut the file after its last newline."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
