"""tools/search.py: its commands, answers and exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path

import pytest

from search import Hit, Retriever, SearchResults
from tests.processes import fast_python
from tests.search.conftest import COLOURS, coloured, write_model
from tools import search
from tools.search import table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, videos and their index."""
    folder = tmp_path_factory.mktemp("made")
    write_model(folder / "model")
    (folder / "videos").mkdir()
    for name, colour in COLOURS.items():
        coloured(folder / "videos" / f"{name}.mp4", colour)
    assert search.main(index_flags(folder)) == 0
    return folder


def index_flags(folder: Path, *more: str) -> list[str]:
    return [
        *("index", "--video_dir", str(folder / "videos"), "--out", str(folder / "index")),
        *("--init_model", str(folder / "model" / "pytorch_model.bin.0"), "--num_workers", "1"),
        *("--engine", "exact", *more),
    ]


def test_a_query_is_answered_with_a_table(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["query", str(made / "index"), "a red picture", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["score", "best", "moment", "video"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert all(line.rstrip().endswith(".mp4") for line in lines[1:])


def test_programs_get_json(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--video", str(made / "videos" / "blue.mp4"), "--not", "snow", "--top", "1", "--json"]
    assert search.main(["query", str(made / "index"), *flags]) == 0
    answer = json.loads(capsys.readouterr().out)
    (hit,) = answer["hits"]
    assert hit["video_id"] == "blue.mp4" and hit["missing"] is False and answer["remarks"] == []
    assert hit["moment"] == hit["moments"][0]["seconds"] and 0 <= hit["moment"] <= hit["duration"]


def test_what_the_model_may_not_know_is_noted(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["query", str(made / "index"), "一只狗"]) == 0
    assert "note: the model was trained on English texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([""], "the query is empty"),
        ([], "the query is empty"),
        (["a" * 10_000], "10,000 characters"),
        (["a dog", "--top", "0"], "top 0"),
        (["--image", "absent.jpg"], "absent.jpg"),
        (["--video", "absent.mp4"], "absent.mp4"),
        (["a dog", "--init_model", "absent.bin"], "absent.bin: no such file"),
        (["a dog", "--engine", "qdrant"], "give --url"),
        (["a dog", "--url", "http://127.0.0.1:9"], "--url is for --engine qdrant"),
    ],
)
def test_wrong_queries_are_told_in_one_line(
    flags: list[str], message: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "qdrant" in flags:
        pytest.importorskip("qdrant_client", reason="needs requirements-search.txt")
    assert search.main(["query", str(made / "index"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("search.py: error: ") and error.count("\n") == 1


def test_an_index_of_another_model_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_model(tmp_path / "other", seed=1)
    assert search.main(["query", str(made / "index"), "a dog", "--init_model", str(other)]) == 2
    assert "made by another model: checkpoint_sha256" in capsys.readouterr().err
    assert search.main(index_flags(made, "--init_model", str(other))) == 2
    assert "made by another model" in capsys.readouterr().err
    assert search.main(index_flags(made, "--max_frames", "3")) == 2
    assert "max_frames 4 there, 3 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index_kind", "flat"], "--index_kind is for --engine faiss; the engine is exact"),
        (["--url", "http://127.0.0.1:9"], "--url is for --engine qdrant; the engine is exact"),
        (["--timeout", "0"], "--timeout: must be more than 0 seconds, not 0"),
        (["--batch_size", "many"], "--batch_size: must be a whole number, at least 1, not many"),
    ],
)
def test_wrong_flags_of_index_are_named(
    flags: list[str], message: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = search.main(index_flags(made, *flags))
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--video_dir", "absent"], "absent: no such folder of videos (--video_dir)"),
        (["--store", "absent"], "frame store absent: no such folder or file"),
        (["--config", "absent.json"], "--config absent.json: no such file"),
        (["--out", str(ROOT / "docs")], "holds other files and no index"),
        (["--out", str(ROOT / "README.md")], "is a file; give a folder"),
    ],
)
def test_wrong_paths_are_named_before_the_model_is_loaded(
    flags: list[str],
    message: str,
    made: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Retriever, "from_checkpoint", None)
    assert search.main(index_flags(made, *flags)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_names_cannot_write_to_the_terminal() -> None:
    hit = Hit("new\nline \x1b[31m\u202e狗 é.mp4", 1.0, 1.0, 0.0, 0.0, 0, (), None, None, False)
    shown = table(SearchResults((hit,)))
    assert shown.count("\n") == 1 and shown.endswith("new\\nline \\x1b[31m\\u202e狗 é.mp4")


def test_removing_and_indexing_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["remove", str(made / "index"), "red.mp4", "red.mp4"]) == 0
    assert search.main(["info", str(made / "index"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 3
    assert search.main(["remove", str(made / "index"), "red.mp4"]) == 2
    assert search.main(index_flags(made)) == 0
    assert "4 videos found: 3 unchanged, 1 taken out before" in capsys.readouterr().err
    assert search.main(["info", str(made / "index")]) == 0
    assert "3 videos, " in (shown := capsys.readouterr().out) and "; 1 taken out before" in shown
    assert search.main(["restore", str(made / "index"), "blue.mp4"]) == 2
    assert search.main(["restore", str(made / "index")]) == 0
    assert search.main(index_flags(made)) == 0
    assert "1 added, 3 unchanged" in capsys.readouterr().err
    assert search.main(["info", str(made / "index")]) == 0
    assert capsys.readouterr().out.startswith("4 videos")


def test_failed_videos_and_full_disks_give_exit_code_1(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "zip.mp4").write_bytes(b"PK\x03\x04")
    coloured(tmp_path / "videos" / "red.mp4", COLOURS["red"])
    (tmp_path / "model").symlink_to(made / "model")
    assert search.main(index_flags(tmp_path)) == 1
    assert "1 added; failed: 1 unopenable; see" in capsys.readouterr().err
    coloured(tmp_path / "videos" / "blue.mp4", COLOURS["blue"])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("search.index_writer.os.fsync", full)
    assert search.main(index_flags(tmp_path)) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert search.main(["query", str(tmp_path / "index"), "a dog"]) == 0


def test_an_absent_library_is_told_in_one_line(made: Path, tmp_path: Path) -> None:
    """In a Python that cannot import Qdrant's client and has not done so."""
    program = (
        "import sys; assert 'qdrant_client' not in sys.modules; sys.modules['qdrant_client'] = None; "
        "sys.path.insert(0, sys.argv.pop(1)); "
        "from tools import search; sys.exit(search.main(sys.argv[1:]))"
    )
    command = [fast_python(), "-c", program, str(ROOT), "query", str(made / "index"), "dog"]
    done = subprocess.run(
        [*command, "--engine", "qdrant", "--url", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "search.py: error: this needs the package qdrant-client: pip install -r requirements-search.txt\n"
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0:00.0"), (61.25, "1:01.2"), (59.96, "1:00.0"), (3723.5, "1:02:03.5"), (None, "?")],
)
def test_seconds_as_players_show_them(seconds: float | None, shown: str) -> None:
    hit = Hit("a.mp4", 1.0, 1.0, 0.0, seconds, 0, (), None, None, False)
    assert table(SearchResults((hit,))).split()[-2] == shown
