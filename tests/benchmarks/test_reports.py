"""The JSON that benchmarks write, and the ratios of two such files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks import compare
from benchmarks.report_json import Report, add_json_flag, format_figure
from common.errors import UserError


def write(path: Path, *, benchmark: str = "loader", rate: float | None = 2.0, row: str = "ours") -> Path:
    report = Report(benchmark, settings={"clips": 4, "json": path}, columns={"clips_per_second": "clips/s"})
    report.add(row, clips_per_second=rate, precision="bf16")
    report.close(path)
    return path


def test_a_report_holds_machine_settings_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(write(tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content["rows"] == [{"row": "ours", "clips_per_second": 2.0, "precision": "bf16"}]
    assert content["settings"] == {"clips": 4}
    assert content["machine"]["versions"]["torch"] == torch.__version__
    assert "| ours | 2 |" in capsys.readouterr().out


def test_numbers_of_torch_are_written_as_numbers(tmp_path: Path) -> None:
    report = Report("x", settings={}, columns={})
    report.add("row", loss=torch.tensor(1.5))  # type: ignore[arg-type]
    report.close(tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["rows"][0]["loss"] == 1.5


def test_a_row_is_named_once() -> None:
    report = Report("x", settings={}, columns={})
    report.add("row")
    with pytest.raises(ValueError, match="two rows are named 'row'"):
        report.add("row")


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_json_flag(parser)
    args = parser.parse_args(["--json", str(tmp_path / "absent" / "a.json")])
    with pytest.raises(UserError, match="--json .*does not exist"):
        Report("x", settings=vars(args), columns={})


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (3, "3"), (12345.6, "12,346"), (514.23, "514.2"), (0.012345, "0.0123"), ("cpu", "cpu")],
)
def test_format_of_figures(value: float | str | None, text: str) -> None:
    assert format_figure(value) == text


def test_ratios_by_row(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.json"), write(tmp_path / "new.json", rate=5.0)
    lines = compare.compare(compare.read_report(old), compare.read_report(new))
    assert lines[2:] == ["| ours | clips_per_second | 2 | 5 | 2.5 |"]


def test_rows_of_one_file_and_other_settings_are_named(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.json"), write(tmp_path / "new.json", row="theirs")
    other = compare.read_report(new)
    other["settings"]["clips"] = 8
    lines = compare.compare(compare.read_report(old), other)
    assert lines[2:] == [
        "only in the old file: ours",
        "only in the new file: theirs",
        "settings differ: clips: 4 -> 8",
    ]


def test_a_figure_without_a_number_has_no_ratio(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.json", rate=None), write(tmp_path / "new.json")
    assert compare.compare(compare.read_report(old), compare.read_report(new))[2:] == []


def test_different_benchmarks_and_other_files_are_refused(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.json"), write(tmp_path / "new.json", benchmark="startup")
    with pytest.raises(UserError, match="two benchmarks: loader and startup"):
        compare.compare(compare.read_report(old), compare.read_report(new))
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="is not a benchmark's file"):
        compare.read_report(tmp_path / "list.json")
    (tmp_path / "text.json").write_text("no", encoding="utf-8")
    with pytest.raises(UserError, match="is not JSON"):
        compare.read_report(tmp_path / "text.json")
    with pytest.raises(UserError, match="absent.json"):
        compare.read_report(tmp_path / "absent.json")
