"""tools/write_flag_docs.py: docs/FLAGS.md is what the fields of `Config` say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engine.config import Config
from tools.write_flag_docs import NOTES, PAGE, flag_page, main


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == flag_page(), "run: python tools/write_flag_docs.py"


def test_every_flag_has_a_row_with_its_defaults() -> None:
    rows = [line for line in flag_page().splitlines() if line.startswith("| `--")]
    assert len(rows) == len(dataclasses.fields(Config))
    assert all(row.replace(r"\|", "").count("|") == 5 for row in rows)
    for start in (
        "| `--weight_decay` | `0.05` / `0.2` | |",
        "| `--report` | on | |",
        "| `--grad_cache` | `0` |",
    ):
        assert len([row for row in rows if row.startswith(start)]) == 1, start


def test_every_note_belongs_to_a_group() -> None:
    assert NOTES.keys() <= {field.metadata["group"] for field in dataclasses.fields(Config)}


def test_the_page_can_go_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "flags.md")]) == 0
    assert (tmp_path / "flags.md").read_text(encoding="utf-8") == flag_page()
    assert main(["--out", "-"]) == 0
    assert capsys.readouterr().out == flag_page()
