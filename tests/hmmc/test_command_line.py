"""`hmmc NAME`: the right program with the right arguments, and a line that says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hmmc
from common import commands
from common.commands import COMMANDS
from hmmc.command_line import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "running", None)
    monkeypatch.setattr(sys, "path", list(sys.path))  # programs put the checkout first


@pytest.mark.parametrize("argv", [[], ["--help"]], ids=str)
def test_help_lists_the_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    listed = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"\n  {name} " in listed and command.summary in listed for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: hmmc {name} ")


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serach"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("hmmc: error: argument COMMAND: invalid choice: 'serach'")
    assert main(["pretrain", "--do_train", "--output_dir", str(tmp_path / "run")]) == 2
    assert main(["search", "info", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "hmmc pretrain: error: --do_train: fine-tuning is hmmc train's work",
        f"hmmc search: error: {tmp_path}: no index there; hmmc search index makes one",
    ]


def test_python_m_hmmc_is_the_command_and_is_quick() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hmmc", "--version"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"hmmc {hmmc.__version__}\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hmmc.command_line" in imported and not imported & {"torch", "numpy", "search", "engine"}


def test_public_names_are_those_of_the_library() -> None:
    import search
    from common.errors import UserError

    assert hmmc.Retriever is search.Retriever and hmmc.UserError is UserError
    assert set(hmmc.__all__) <= set(dir(hmmc))
    with pytest.raises(AttributeError, match="module 'hmmc' has no attribute 'no_such_name'"):
        _ = hmmc.no_such_name
