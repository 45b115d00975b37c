import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataloaders.datasets.vatex import read_split
from tests.dataloaders.toy import write_json
from tools.convert_vatex import main, merge

ENGLISH = [{"videoID": "a", "enCap": ["x", "y"]}, {"videoID": "b", "enCap": ["z"]}]
CHINESE = [{"videoID": "b", "chCap": ["三"]}, {"videoID": "c", "chCap": ["四"]}]


def release(folder: Path) -> tuple[str, str]:
    return str(write_json(folder / "en.json", ENGLISH)), str(write_json(folder / "ch.json", CHINESE))


def lines(path: Path, *items: str) -> Path:
    path.write_text("".join(f"{item}\n" for item in items), "utf-8")
    return path


def test_languages_merge_into_the_form_that_the_reader_takes(tmp_path: Path) -> None:
    out = tmp_path / "vatex_data.json"
    assert main([*release(tmp_path), "--out", str(out)]) == 0
    assert json.loads(out.read_text("utf-8")) == {
        "a": {"enCap": ["x", "y"]},
        "b": {"enCap": ["z"], "chCap": ["三"]},
        "c": {"chCap": ["四"]},
    }
    assert "三" in out.read_text("utf-8")
    both = read_split(out, lines(tmp_path / "list.txt", "b"), language="chinese")
    assert list(both.captions) == ["三"]
    assert merge([out, tmp_path / "en.json"]) == merge([out])


def test_coverage_and_the_list_of_covered_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split, part = lines(tmp_path / "test_list.txt", "a", "c", "b"), tmp_path / "test_list.chinese.txt"
    assert main([*release(tmp_path), "--list", str(split), "--covered", str(part)]) == 0
    assert part.read_text("utf-8") == "c\nb\n"
    said = capsys.readouterr().out
    assert "english (enCap): 3 captions of 2 videos, 1 to 2 each" in said
    assert "test_list.txt: 2 of 3 videos have chinese captions; not: a" in said
    assert "2 videos written, 1 left out" in said


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([{"videoID": "a", "enCap": ["other"]}], "second.json: video a has other captions (enCap)"),
        ([{"videoID": "a", "enCap": [3]}], "second.json: video a: 'enCap' must be a list of strings"),
        ([{"videoID": "d", "chCap": ["x"]}] * 2, "second.json: video d comes twice"),
        ({"a": "text"}, "second.json: video a: 'enCap' must be a list of strings"),
    ],
)
def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], second: Any, message: str) -> None:
    path, out = write_json(tmp_path / "second.json", second), tmp_path / "out.json"
    assert main([release(tmp_path)[0], str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_files_are_replaced_with_overwrite_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(tmp_path / "out.json", "mine")
    assert main([*release(tmp_path), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err and out.read_text("utf-8") == "mine\n"
    assert main([*release(tmp_path), "--out", str(out), "--overwrite"]) == 0
    assert main([*release(tmp_path), "--covered", str(tmp_path / "new.txt")]) == 2
    assert "exactly one --list" in capsys.readouterr().err
    assert main([*release(tmp_path), "--out", str(tmp_path / "none" / "x.json")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_it_runs_as_a_program() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "tools/convert_vatex.py", "--help"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--covered" in done.stdout
