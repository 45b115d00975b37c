"""How a program ends: one line for an error that a user can fix, the traceback for a bug."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import FileError, UserError, file_errors, run_program

ROOT = Path(__file__).resolve().parents[2]


def test_a_user_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise UserError("--list a.csv:\n no such file")

    assert run_program("tool.py", body) == 2
    assert capsys.readouterr().err == "tool.py: error: --list a.csv: no such file\n"


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError, KeyError])
def test_a_bug_is_not_caught(error: type[Exception]) -> None:
    def body() -> int:
        raise error("planted")

    with pytest.raises(error, match="planted"):
        run_program("tool.py", body)


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise KeyboardInterrupt

    assert run_program("tool.py", body) == 130
    assert capsys.readouterr().err == "tool.py: interrupted\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from common.errors import run_program; "
    code += "sys.exit(run_program('tool.py', lambda: [print('x' * 9999) for _ in range(99)] and 0))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.csv"
    with (
        pytest.raises(FileError, match=r"absent\.csv: cannot be read \(No such file") as caught,
        file_errors(path),
    ):
        path.read_bytes()
    assert isinstance(caught.value, OSError) and caught.value.errno == 2
