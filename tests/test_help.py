"""Every program tells what it does and what its flags mean."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [*ROOT.glob("main_*.py"), *ROOT.glob("tools/*.py")]
PROGRAMS = [p.relative_to(ROOT) for p in sorted(FILES) if "__main__" in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_help(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # programs put the checkout first
    monkeypatch.setattr(sys, "argv", [path.name])
    program = importlib.import_module(".".join(path.with_suffix("").parts))
    with pytest.raises(SystemExit) as end:
        program.main(["--help"])
    assert end.value.code == 0
    help_text = capsys.readouterr().out
    assert help_text.startswith(f"usage: {path.name}") and "%%" not in help_text
