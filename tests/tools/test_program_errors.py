"""How programs in tools/ end: one line for a user's error, the traceback for a bug; flags before torch."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Of each program a function that does its work, and a command line that gets there.
WORK = {
    "check_data": ("check_data", ["--dataset", "msrvtt"]),
    "collect_results": ("collect", []),
    "compare_reports": ("pair_reports", ["a", "b"]),
    "convert_checkpoint": ("convert", ["a.bin", "b.bin"]),
    "convert_vatex": ("merge", ["a.json"]),
    "demo": ("read_settings", ["index"]),
    "export_onnx": ("_check_packages", ["model", "--out", "folder"]),
    "evaluate_features": ("_check_flags", ["folder"]),
    "frame2lmdb": ("build", ["--video_dir", "a", "--lmdb_path", "b"]),
    "make_shards": ("_plan", ["--out", "shards", "--dataset", "msrvtt"]),
    "make_toy_dataset": ("make_toy_dataset", ["--out", "toy"]),
    "plot_runs": ("read_curves", ["a", "--csv", "b.csv"]),
    "run_ablations": ("_run_all", []),
    "search": ("_query", ["query", "index", "text"]),
    "watch_checkpoints": ("read_run_settings", ["a"]),
    "write_flag_docs": ("flag_page", []),
}
HEAVY = ("torch", "torchvision", "transformers", "open_clip", "matplotlib")


def test_tools_holds_programs_only_and_each_is_tested_here() -> None:
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == {"__init__", *WORK}


def plant(program: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program's module, with a function that raises `error`."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # programs put the checkout first
    module = importlib.import_module(f"tools.{program}")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, WORK[program][0], fail)
    return module


@pytest.mark.parametrize("bug", [ValueError, OSError, ImportError])
@pytest.mark.parametrize("program", WORK)
def test_a_bug_is_not_taken_for_a_users_error(
    program: str, bug: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = plant(program, bug("planted"), monkeypatch)
    with pytest.raises(bug, match="planted"):
        module.main(WORK[program][1])


@pytest.mark.parametrize("program", WORK)
def test_a_users_error_is_one_line_and_exit_code_2(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = plant(program, UserError("--flag x:\n  planted"), monkeypatch)
    assert module.main(WORK[program][1]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"{program}.py: error: --flag x: planted\n")


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60
    )


def test_a_bug_ends_the_process_with_its_traceback_and_exit_code_1() -> None:
    code = "import sys; from tools import convert_vatex as program; program.merge = lambda files: 1 / 0; "
    done = run_code(code + "sys.exit(program.main(['a.json']))")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Traceback") and "ZeroDivisionError" in done.stderr


def test_help_and_wrong_flags_need_no_heavy_import() -> None:
    code = f"""
import contextlib, importlib, sys
for name in {sorted(WORK)}:
    program = importlib.import_module("tools." + name)
    for argv in (["--help"], ["--no_such_flag"]):
        with contextlib.suppress(SystemExit):
            program.main(argv)
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, (name, loaded)
"""
    done = run_code(code)
    assert done.returncode == 0, done.stderr
