"""How a program ends: one line for an error that a user can fix, the traceback for a bug."""

from __future__ import annotations

import errno
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


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EACCES, 2), (errno.ENAMETOOLONG, 2)]
)
def test_what_the_system_refuses_is_one_line(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> int:
        raise OSError(number, os.strerror(number), "runs/a.json")

    assert run_program("tool.py", body) == code
    line = capsys.readouterr().err
    assert line.startswith("tool.py: error: runs/a.json: cannot be ") and line.count("\n") == 1
    assert os.strerror(number) in line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("words", [1, 9999])  # written at the end, and in between
def test_a_full_disk_behind_stdout_is_one_line(words: int) -> None:
    code = "import sys; from common.errors import run_program; "
    code += f"sys.exit(run_program('tool.py', lambda: print('word ' * {words}) or 0))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"tool.py: error: output: cannot be written (No space left on device)\n"


def test_a_closed_stdout_is_no_error() -> None:
    code = "import sys; from common.errors import run_program; "
    code += "sys.exit(run_program('tool.py', lambda: sys.stdout.write('word') and 0))"
    command = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
