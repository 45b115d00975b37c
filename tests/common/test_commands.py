"""The programs under both names: scripts of the checkout, and `hmmc NAME`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common import commands
from common.arguments import ArgumentParser
from common.commands import COMMANDS, as_called, process_of
from common.errors import UserError, run_program

ROOT = Path(__file__).resolve().parents[2]
NO_COMMAND = {"write_flag_docs.py"}  # writes into the checkout


def test_every_program_has_a_command() -> None:
    scripts = [*ROOT.glob("main_*.py"), *ROOT.glob("tools/[a-z]*.py")]
    assert {ROOT / command.script for command in COMMANDS.values()} == {
        path for path in scripts if path.name not in NO_COMMAND
    }


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("train", ["--lr", "1"], ["--do_train", "--lr", "1"]),
        ("train", ["--do_params"], ["--do_params"]),
        ("eval", ["--do_eval"], ["--do_eval"]),
        ("pretrain", [], ["--do_pretrain"]),
        ("search", ["info", "index"], ["info", "index"]),
    ],
)
def test_the_job_is_a_flag_of_the_main_programs(name: str, given: list[str], expected: list[str]) -> None:
    assert COMMANDS[name].arguments(given) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python tools/search.py index --out I", "hmmc search index --out I"),
        ("no index there; tools/search.py index makes one", "no index there; hmmc search index makes one"),
        ("search.py", "hmmc search"),
        ("fine-tuning is main_task_retrieval.py's work", "fine-tuning is hmmc eval's work"),
        ("pre-training is main_pretrain.py's work", "pre-training is hmmc pretrain's work"),
        ("(tools/frame2lmdb.py --num_frames)", "(hmmc frames --num_frames)"),
        ("faiss: pip install -r requirements-search.txt", 'faiss: pip install "hmmc[search]"'),
        ("my/demo.py: no such file", "my/demo.py: no such file"),
        ("my_search.py, search.pyc, tools/other.py", "my_search.py, search.pyc, tools/other.py"),
    ],
)
def test_scripts_are_named_as_the_user_calls_them(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert as_called(text) == text
    monkeypatch.setattr(commands, "running", "eval")
    assert as_called(text) == expected


def test_help_and_errors_name_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "running", "frames")
    parser = ArgumentParser(prog="frame2lmdb.py", description="tools/frame2lmdb.py STORE")
    assert parser.format_help().startswith("usage: hmmc frames [-h]\n\nhmmc frames STORE")
    with pytest.raises(SystemExit):
        parser.parse_args(["--no_such_flag"])

    def body() -> int:
        raise UserError("no store; tools/frame2lmdb.py makes one")

    assert run_program("frame2lmdb.py", body) == 2
    assert capsys.readouterr().err.splitlines() == [
        "hmmc frames: error: unrecognized arguments: --no_such_flag (--help lists the flags)",
        "hmmc frames: error: no store; hmmc frames makes one",
    ]


def test_a_script_runs_from_any_folder(tmp_path: Path) -> None:
    command = [*process_of("tools/convert_vatex.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("usage: convert_vatex.py")
