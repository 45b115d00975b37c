"""How the entry scripts end: one line for bad input before weights are looked for, a traceback for a bug."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import engine.run
import main_task_retrieval
from tests.e2e.conftest import Toy

ROOT = Path(__file__).resolve().parents[2]
MSRVTT = ("--dataset", "msrvtt", "--language", "english")


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError, RuntimeError, KeyError])
def test_a_bug_shows_its_traceback_on_the_screen_and_in_the_log(
    error: type[Exception],
    toy: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def planted(*_: object) -> None:
        raise error("planted by the test")

    monkeypatch.setattr(engine.run, "build_model", planted)
    assert toy.run("eval", tmp_path, *MSRVTT) == 1
    for text in (capsys.readouterr().err, (tmp_path / "log.txt").read_text(encoding="utf-8")):
        assert "Traceback (most recent call last)" in text and "in planted" in text
        assert f"{error.__name__}: " in text and "planted by the test" in text


@pytest.mark.parametrize(
    "flag", ["--train_annotations", "--train_list", "--train_store", "--eval_list", "--init_model"]
)
def test_wrong_paths_are_reported_before_weights_are_looked_for(
    flag: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine.run, "run", lambda *_, **__: pytest.fail("the run began"))
    assert toy.run("train", tmp_path / "out", *MSRVTT, flag, str(tmp_path / "absent")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("main_task_retrieval.py: error: ") and str(tmp_path / "absent") in line
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main_task_retrieval.main(["--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("main_task_retrieval.py: error: nothing to do")


def test_help_and_wrong_flags_need_no_heavy_import() -> None:
    code = """
import contextlib, sys, main_pretrain, main_task_retrieval
for program in (main_pretrain, main_task_retrieval):
    for argv in (["--help"], ["--no_such_flag"], ["--output_dir", "out"]):
        with contextlib.suppress(SystemExit):
            program.main(argv)
heavy = {"torch", "torchvision", "transformers", "open_clip", "matplotlib"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
