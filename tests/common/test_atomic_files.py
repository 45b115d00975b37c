"""Atomic writes: the old file stays until the new one is complete; links and devices stay what they are."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.atomic_files import atomic_open, atomic_path, check_target, write_json, write_text
from common.errors import FileError


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_as_a_whole(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    for text in ("old\n", "新\n"):
        write_text(path, text, durable=durable)
        assert path.read_bytes() == text.encode("utf-8")
    with pytest.raises(ZeroDivisionError), atomic_open(path, durable=durable) as file:  # fails half-way
        file.write("half")
        file.write(str(1 / 0))
    assert path.read_text(encoding="utf-8") == "新\n"
    assert [p.name for p in tmp_path.iterdir()] == ["best.json"]


def test_json_keeps_characters_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"标题": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "标题": 1\n}\n'


def test_names_that_are_not_utf_8_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode("基线".encode("gbk"))
    write_json(tmp_path / "a.json", {"output_dir": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"output_dir": name}


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "real.json", tmp_path / "link.json"
    target.parent.mkdir()
    target.write_text("old", encoding="utf-8")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text(encoding="utf-8") == "new"
    assert [p.name for p in target.parent.iterdir()] == ["real.json"]


def test_a_dangling_link_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("absent")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "absent").read_text(encoding="utf-8") == "new"


def test_a_device_stays_a_device() -> None:
    write_text(Path(os.devnull), "gone")
    with atomic_path(Path(os.devnull)) as temporary:
        temporary.write_bytes(b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_pipe_gets_what_is_written(tmp_path: Path) -> None:
    """As `--json >(jq .)` in a shell: a path like /dev/fd/63 that leads to a pipe."""
    for how in (_write_by_open, _write_by_name):
        reading, writing = os.pipe()
        how(Path(f"/dev/fd/{writing}"))
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert pipe.read() == "新".encode()


def _write_by_open(path: Path) -> None:
    with atomic_open(path) as file:
        file.write("新")


def _write_by_name(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("新", encoding="utf-8")


def test_a_dash_is_standard_output(tmp_path: Path) -> None:
    code = "from pathlib import Path; from common.atomic_files import *; write_text(Path('-'), 'hello'); "
    code += "f = atomic_path(Path('-')); p = f.__enter__(); p.write_bytes(b' world'); "
    code += "f.__exit__(None, None, None)"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, check=True
    )
    assert done.stdout == b"hello world" and list(tmp_path.iterdir()) == []


def test_permissions_of_the_file_before_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    with atomic_path(path) as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)  # as safetensors does
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("folder", ["absent", "file"])
def test_the_error_names_the_file(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / folder / "a.json"
    with pytest.raises(FileError, match=r"a\.json: cannot be written \(N") as caught:
        write_text(path, "x")
    assert caught.value.errno is not None


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with (
        pytest.raises(FileError, match=r"a\.json: cannot be written \(No space left on device\)"),
        atomic_open(path),
    ):
        raise OSError(28, "No space left on device")
    assert path.read_text(encoding="utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_error_about_another_file_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), atomic_open(tmp_path / "a.json"):
        (tmp_path / "other").read_bytes()


def test_a_target_that_cannot_be_made_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("absent/file")
    for good in (tmp_path / "new.json", Path("-"), Path("/dev/null")):
        check_target(good, "--json")
    with pytest.raises(FileError, match="--json .*folder: is a folder"):
        check_target(tmp_path / "folder", "--json")
    for path in (tmp_path / "absent" / "file", tmp_path / "link"):
        with pytest.raises(FileError, match=f"--json {path}: the folder .*absent does not exist"):
            check_target(path, "--json")
    assert not (tmp_path / "new.json").exists()
