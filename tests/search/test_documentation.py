"""The example of docs/SEARCH.md runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.search.conftest import COLOURS, coloured, write_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "SEARCH.md"


def example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "from search import" in block]
    return block


def test_the_example_runs_and_has_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    monkeypatch.chdir(tmp_path)
    checkpoint = write_model(tmp_path / "ckpts" / "msrvtt")
    checkpoint.rename(checkpoint.with_name("pytorch_model.bin.4"))
    (tmp_path / "my_videos").mkdir()
    for name, colour in (("concert", "red"), ("dog", "blue")):
        coloured(tmp_path / "my_videos" / f"{name}.mp4", COLOURS[colour])
    exec(compile(example(), str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("cosine")
    assert {re.split("[ ]", line)[1] for line in lines[1:]} == {"concert.mp4", "dog.mp4"}
    assert len([line for line in example().splitlines() if line.strip()]) == 10


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    from search.query import EXCLUDE_WEIGHT, MAX_QUERY_CHARACTERS
    from search.retriever import CANDIDATES

    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"at most {MAX_QUERY_CHARACTERS:,} characters" in page
    assert f"{CANDIDATES:,} candidates each" in page and EXCLUDE_WEIGHT == 0.5
