"""steps.jsonl: complete lines only, cut back on resume, read in the order of steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from engine.logs.steps_jsonl import StepRecords, read_steps


def steps_of(path: Path) -> list[int]:
    return [record["step"] for record in read_steps(path)]


def test_appended_records_are_read_again(tmp_path: Path) -> None:
    file = StepRecords(tmp_path / "steps.jsonl")
    records = [{"step": 1, "loss": 2.5, "epoch": 0}, {"step": 2, "loss": 1.25, "epoch": 0}]
    for record in records:
        file.append(record)
    assert read_steps(file.path) == records


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    file = StepRecords(tmp_path / "steps.jsonl")
    file.append({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    assert read_steps(file.path) == [{"step": 1, "loss": None, "grad_norm": None}]
    json.loads(file.path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"name": "\xe5\xb1', b'{"step": 3}'])
def test_a_half_written_line_is_skipped_and_overwritten(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
    assert steps_of(path) == [1, 2]
    StepRecords(path).append({"step": 3})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_truncate_drops_later_steps(tmp_path: Path) -> None:
    file = StepRecords(tmp_path / "steps.jsonl")
    for step in (2, 4, 6, 8):
        file.append({"step": step, "seconds": step / 2})
    assert file.truncate(5) == {"step": 4, "seconds": 2.0}
    assert steps_of(file.path) == [2, 4]
    file.append({"step": 6})
    assert steps_of(file.path) == [2, 4, 6]
    assert file.truncate(0) is None
    assert file.path.read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl"]


def test_truncate_without_a_file(tmp_path: Path) -> None:
    assert StepRecords(tmp_path / "steps.jsonl").truncate(3) is None
    assert list(tmp_path.iterdir()) == []


def test_another_run_in_the_same_folder_replaces_the_first(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    for loss in (1, 2):
        file = StepRecords(path)
        for step in (1, 2, 3) if loss == 1 else (1, 2):
            file.append({"step": step, "loss": loss})
    assert read_steps(path) == [{"step": 1, "loss": 2}, {"step": 2, "loss": 2}]


@pytest.mark.parametrize("line", ["[]", '{"loss": 1}', '{"step": "one"}', '{"step": true}', "rubbish", ""])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"steps\.jsonl line 2"):
        read_steps(path)
