"""`--dataset my_data.csv`: anybody's videos through the whole programs, in one language and in both."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main_task_retrieval
from dataloaders.datasets.registry import read_examples
from engine.config_checks import parse_and_check
from engine.input_files import training_files
from tests.e2e.conftest import Toy
from tests.e2e.pages import commands
from tests.engine.report.inputs import BLANK
from tools import check_data, compare_reports, frame2lmdb

Read = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def table(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy VATEX captions as a table; its store is where the programs look for it."""
    folder = tmp_path_factory.mktemp("own")
    source = toy.data / "vatex"
    captions = json.loads((source / "vatex_data.json").read_text(encoding="utf-8"))
    rows = []
    for split in ("train", "val", "test"):
        for name in (source / f"{split}_list.txt").read_text(encoding="utf-8").split():
            for language, key in (("en", "enCap"), ("zh", "chCap")):
                rows += [(name, text, language, split) for text in dict.fromkeys(captions[name][key])]
    path = folder / "my_data.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("video_id", "caption", "language", "split"), *rows])
    (folder / "my_data_lmdb").symlink_to(source / "vatex_lmdb")
    return path


def test_the_five_commands_of_the_page(
    toy: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    results: Read,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As they are printed, but on toy videos, with a toy model and small sizes."""
    monkeypatch.setattr("engine.report.report.png", lambda draw, *, theme: BLANK)  # drawing takes seconds
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_videos").symlink_to(toy.data / "table" / "videos")
    shutil.copy(toy.data / "table" / "my_data.csv", "my_data.csv")
    small = [*toy.flags, "--report", "--temporal_layers", "1"]
    ran = []
    for program, argv in commands("docs/YOUR_DATA.md", heading="In five commands"):
        main, more = {
            "tools/frame2lmdb.py": (frame2lmdb.main, ["--num_frames", "4", "--num_workers", "1"]),
            "tools/check_data.py": (check_data.main, []),
            "main_task_retrieval.py": (main_task_retrieval.main, small),
            "tools/compare_reports.py": (compare_reports.main, []),
        }[program]
        capsys.readouterr()
        assert main([*argv, *more]) == 0, program
        ran.append(program)
    assert ran == [*list(dict.fromkeys(ran))[:3], "main_task_retrieval.py", "tools/compare_reports.py"]
    assert "t2v/R@1" in capsys.readouterr().out
    before, mine = (results(Path("runs") / name)[0] for name in ("before", "mine"))
    assert before["list"] == mine["list"] and mine["dataset"] == "my_data.csv"


@pytest.mark.parametrize("page", ["docs/YOUR_DATA.md", "docs/LARGE_SCALE.md", "README.md"])
def test_the_commands_of_the_pages_are_right(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsers = {
        "tools/frame2lmdb.py": frame2lmdb.build_parser,
        "tools/check_data.py": check_data.build_parser,
        "tools/compare_reports.py": compare_reports.build_parser,
    }
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    assert len(found) >= 4
    for program, argv in found:
        if program.startswith("main_"):
            parse_and_check(argv, program=program)
        elif program in parsers:
            parsers[program]().parse_args(argv)


def test_a_model_of_both_languages_from_a_table(
    toy: Toy, table: Path, tmp_path: Path, results: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dataset", str(table), "--use_temp", "--temporal_layers", "1")
    out = tmp_path / "both"
    assert toy.run("train", out, *flags, "--language", "bilingual", "--select_on", "val") == 0
    chosen, tested = results(out)
    assert (chosen["split"], tested["split"]) == ("val", "test")
    assert tested["dataset"] == "my_data.csv" and tested["list"].startswith("sha256:")
    assert {"english/t2v/R@1", "chinese/t2v/R@1"} <= tested.keys()


def test_pretraining_on_a_table_is_tested_on_it(toy: Toy, table: Path, tmp_path: Path, results: Read) -> None:
    flags = ("--dataset", str(table), "--language", "english", "--weight_FAM", "0", "--weight_MLM", "0")
    assert toy.run("pretrain", tmp_path / "pre", *flags) == 0
    assert results(tmp_path / "pre")[-1]["dataset"] == "my_data.csv"


def test_the_doctor_reads_every_split_and_language(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_data.main(["--dataset", str(table), "--sample", "2"]) == 0
    printed = capsys.readouterr().out
    assert "val:" in printed and "(bilingual)" in printed


def test_a_test_in_a_file_of_its_own(toy: Toy, table: Path, tmp_path: Path, results: Read) -> None:
    """Every row of it is the test, and the result names it; so runs on different tables can be compared."""
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    for name, split in (("more.csv", "train"), ("exam.csv", "test")):
        chosen = [(r["video_id"], r["caption"]) for r in rows if (r["language"], r["split"]) == ("en", split)]
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("video_id", "caption"), *chosen])
    store = str(table.parent / "my_data_lmdb")
    flags = ("--language", "english", "--eval_annotations", str(tmp_path / "exam.csv"), "--eval_store", store)
    runs = [tmp_path / "one", tmp_path / "other"]
    for out, data in zip(runs, (tmp_path / "more.csv", table), strict=True):
        assert toy.run("eval", out, *flags, "--dataset", str(data)) == 0
    found = [results(out)[0] for out in runs]
    assert [result["dataset"] for result in found] == ["exam.csv", "exam.csv"]
    assert found[0]["list"] == found[1]["list"] and found[0]["videos"] == 6
    argv = ["--do_train", "--output_dir", "out", "--dataset", str(tmp_path / "more.csv"), *flags]
    files = training_files(parse_and_check(argv, program="main_task_retrieval.py")[0])
    train = read_examples("x.csv", "train", language="english", files=files)
    assert train.num_videos == len({row["video_id"] for row in rows if row["split"] == "train"})


def test_what_stops_a_run_is_said_before_it_starts(
    toy: Toy, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(name: str, text: str, *flags: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        out = tmp_path / f"out_{name}"
        assert toy.run("train", out, "--dataset", str(path), "--language", "english", *flags) == 2
        return capsys.readouterr().err

    store = ("--train_store", str(table.parent / "my_data_lmdb"))
    store += ("--eval_store", store[1])
    message = error("a.csv", "video,caption\na,x\nb,y\n")
    assert f"--json_path {tmp_path / 'a.csv'} --lmdb_path {tmp_path / 'a_lmdb'}" in message
    message = error("b.csv", "video,caption,split\na,x,train\nb,y,val\n", *store)
    assert "no row has the split 'test'; its rows: train 1, val 1; give some rows" in message
    assert "needs a column language" in error(
        "c.csv", "video,caption\na,x\nb,y\n", *store, "--language", "bilingual"
    )
    message = error("d.csv", "video,caption\na,x\nb,y\n", *store)
    assert "1 of 1 videos are absent" in message and "--json_path" in message
