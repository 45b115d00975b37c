"""Ctrl-C while a program imports its libraries."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(path for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import common.early_interrupt; signal.raise_signal(2)", "x.py: interrupted\n"),
        (
            "import common.early_interrupt; from common.errors import run_program;"
            "run_program('x.py', lambda: print(signal.getsignal(2) is signal.default_int_handler) or 0);"
            "sys.exit(run_program('x.py', lambda: signal.raise_signal(2)))",
            "x.py: interrupted\n",
        ),
    ],
)
def test_ctrl_c_is_one_line(code: str, expected: str) -> None:
    code = f"import signal, sys; signal.signal(2, signal.default_int_handler); sys.argv = ['x.py']; {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, expected)
    assert done.stdout in ("", "True\n")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_every_program_takes_ctrl_c_before_it_imports_what_takes_long(path: Path) -> None:
    before, found, _ = path.read_text(encoding="utf-8").partition("    import common.early_interrupt")
    names = set(re.findall(r"^(?:from|import) (\w+)", before, re.MULTILINE))
    assert found and names <= sys.stdlib_module_names
