"""Making the toy demo: complete or absent, reused by later starts, with a line for each step."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import search
from common.errors import FileError, UserError
from common.locks import FileLock
from demo import toy_index
from demo.toy_index import LANGUAGES, LOCK_FILE, READY_FILE, Scale, Stage, prepare
from search import Retriever, VideoIndex
from tests.processes import fast_python

SMALL = Scale("tiny", (Stage(1, 2.5e-3, 4e-4),), batch=4)


@pytest.mark.timeout(240)
def test_a_toy_demo_is_made_from_nothing_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", fast_python())
        demo = prepare(tmp_path / "demo", "chinese", scale=SMALL, say=lines.append)
    steps = [line.split("s: ")[1] for line in lines if line.startswith("toy demo")]
    assert steps == [
        "drawing toy videos",
        "frame store",
        "training, chinese",
        "index",
        "ready",
    ]
    assert any("epoch 1/1 step" in line for line in lines)
    with VideoIndex(demo.index) as index:
        assert len(index) == 6  # the test videos of the size "tiny"
        found = Retriever.for_index(index, device="cpu").search(index, demo.examples[0])
        assert len(found) == 6 and not found.remarks and not any(hit.missing for hit in found)
    assert 1 <= len(demo.examples) <= 5 and demo.figures.startswith("R@1 ")
    assert "玩具模型" in demo.remark

    monkeypatch.setattr(toy_index._Preparation, "run", None)
    assert prepare(tmp_path / "demo", "chinese", scale=SMALL) == demo


class Steps:
    """The preparation without its programs: records their names and stops in one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.stop_in = ""
        steps = self

        def program(self: toy_index._Preparation, name: str, *arguments: str | Path) -> None:
            steps.ran.append(Path(name).stem)
            product = arguments[[str(a) for a in arguments].index(_PRODUCT[name]) + 1]
            Path(product).mkdir(parents=True)
            if steps.stop_in == Path(name).stem:
                raise KeyboardInterrupt
            _fill(name, Path(product))

        monkeypatch.setattr(toy_index._Preparation, "_program", program)
        monkeypatch.setattr(search, "VideoIndex", lambda folder: contextlib.nullcontext(folder))
        monkeypatch.setattr(search, "Retriever", _Finder)


class _Finder:
    """A model that finds the first video of all, whatever is asked."""

    @staticmethod
    def for_index(index: Path, *, device: str) -> type[_Finder]:
        return _Finder

    @staticmethod
    def search(index: Path, text: str, *, top: int) -> SimpleNamespace:
        return SimpleNamespace(hits=[SimpleNamespace(video_id="toy-001.mp4")])


_PRODUCT = {
    "tools/make_toy_dataset.py": "--out",
    "tools/frame2lmdb.py": "--lmdb_path",
    "main_task_retrieval.py": "--output_dir",
    "tools/search.py": "--out",
}


def _fill(name: str, product: Path) -> None:
    """Write the files that later steps read."""
    if name.endswith("make_toy_dataset.py"):
        videos = product / "vatex" / "videos"
        videos.mkdir(parents=True)
        for name in "ab":
            (videos / f"{name}.mp4").write_bytes(b"video")
        (product / "vatex" / "test_list.txt").write_text("a\nb\n", encoding="utf-8")
        captions = {"a": {"enCap": ["a long caption", "short"], "chCap": ["长长的句子", "短"]}}
        captions["b"] = {"enCap": ["not found first"], "chCap": ["不是第一个"]}
        (product / "vatex" / "vatex_data.json").write_text(json.dumps(captions), encoding="utf-8")
    if name == "main_task_retrieval.py":
        line = {f"t2v/{name}": 50.0 for name in ("R@1", "R@5", "R@10")}
        (product / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    if name.endswith("search.py"):
        (product / "index.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize("cut", ["make_toy_dataset", "frame2lmdb", "main_task_retrieval", "search"])
def test_an_interrupted_step_is_done_again_and_the_rest_is_kept(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    steps.stop_in = cut
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, say=lambda _: None)
    assert not (tmp_path / "english" / READY_FILE).exists()
    before, steps.ran, steps.stop_in = steps.ran, [], ""
    demo = prepare(tmp_path, say=lambda _: None)
    assert demo.examples == ("short",) and demo.figures == "R@1 50, R@5 50, R@10 50"
    assert [*before[:-1], *steps.ran] == ["make_toy_dataset", "frame2lmdb", "main_task_retrieval", "search"]


def test_each_language_has_its_own_videos_and_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    found = [prepare(tmp_path, language, say=lambda _: None) for language in LANGUAGES]
    assert [demo.examples for demo in found] == [("short",), ("短",), ("short",)]
    training = ["main_task_retrieval", "main_task_retrieval"]
    assert steps.ran[4:9] == ["make_toy_dataset", "frame2lmdb", *training, "search"]
    assert steps.ran[9:] == ["main_task_retrieval", "search"], "the videos of the Chinese demo"
    assert (tmp_path / "chinese" / "model-1").is_dir()
    assert len({demo.index for demo in found}) == 3


def test_another_recipe_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    prepare(tmp_path, say=lambda _: None)
    (tmp_path / "english" / "index" / "old").touch()
    steps.ran = []
    prepare(tmp_path, scale=Scale("demo", (Stage(1, 1e-3, 1e-3),)), say=lambda _: None)
    assert steps.ran == ["main_task_retrieval", "search"]
    assert not (tmp_path / "english" / "index" / "old").exists()


def test_an_index_that_was_deleted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    demo = prepare(tmp_path, say=lambda _: None)
    (demo.index / "index.json").unlink()
    demo.index.rmdir()
    steps.ran = []
    assert prepare(tmp_path, say=lambda _: None) == demo and steps.ran == ["search"]


def test_two_do_not_prepare_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Steps(monkeypatch)
    with (
        FileLock(tmp_path / LOCK_FILE),
        pytest.raises(UserError, match="another process prepares this folder"),
    ):
        prepare(tmp_path, say=lambda _: None)


def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"make_toy_dataset\.py ended with 2: .*invalid choice: 'huge'"):
        prepare(tmp_path, scale=Scale("huge", ()), say=lambda _: None)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file/demo: the toy demo cannot be made there"):
        prepare(tmp_path / "file" / "demo", say=lambda _: None)
