"""--select_on over whole runs: what is read and evaluated when, what is reported, also after a resume."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine.data
import engine.training.selection
from tests.e2e.conftest import Toy
from tests.e2e.test_command_lines import TIME_LIMIT, launch
from tests.processes import torchrun
from tools import watch_checkpoints

Results = Callable[[Path], list[dict[str, Any]]]
FLAGS = ("--dataset", "vatex", "--language", "english", "--lr", "1e-3", "--epochs", "2", "--bootstrap", "0")
HELD = ("--held_out", "0.4", "--batch_size", "2")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read and evaluated, in order: splits of annotations, and evaluations by split."""
    seen: list[str] = []
    read, evaluate = engine.data.read_examples, engine.training.selection.evaluate

    def spied_read(dataset: str, split: str, **kwargs: Any) -> Any:
        seen.append(f"read {split}")
        return read(dataset, split, **kwargs)

    def spied_evaluate(*args: Any, **kwargs: Any) -> Any:
        seen.append(f"evaluate {kwargs.get('split', 'test')} {kwargs['epoch']}")
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(engine.data, "read_examples", spied_read)
    monkeypatch.setattr(engine.training.selection, "evaluate", spied_evaluate)
    return seen


def best(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "best.json").read_text(encoding="utf-8")))


def test_by_default_the_test_list_is_read_once_after_the_last_epoch(
    toy: Toy, tmp_path: Path, results: Results, reads: list[str]
) -> None:
    assert toy.run("train", tmp_path, *FLAGS) == 0
    assert reads == ["read train", "read test", "evaluate test 1"]
    (line,) = results(tmp_path)
    assert (line["split"], line["selected_on"], line["selected_epoch"]) == ("test", "last", 1)
    assert best(tmp_path)["value"] == line["t2v/R@1"]


@pytest.mark.parametrize(("select_on", "listed"), [("val", "validation"), ("held_out", None)])
def test_another_list_chooses_and_no_test_caption_is_read_before(
    select_on: str, listed: str | None, toy: Toy, tmp_path: Path, results: Results, reads: list[str]
) -> None:
    assert toy.run("train", tmp_path, *FLAGS, *HELD, "--select_on", select_on) == 0
    first, second, final = results(tmp_path)
    chosen = max((first, second), key=lambda line: (line["t2v/R@1"], -line["epoch"]))
    read = ["read train"] + ([f"read {listed}"] if listed else [])
    evaluated = [f"evaluate {select_on} 0", f"evaluate {select_on} 1"]
    assert reads == [*read, *evaluated, "read test", f"evaluate test {chosen['epoch']}"]
    assert {first["split"], second["split"]} == {select_on} and final["split"] == "test"
    assert "selected_on" not in first and final["selected_on"] == select_on
    assert final["epoch"] == final["selected_epoch"] == chosen["epoch"]
    assert final["checkpoint"].endswith(f"pytorch_model.bin.{chosen['epoch']}")
    assert best(tmp_path) | {"path": ""} == {
        "epoch": chosen["epoch"],
        "path": "",
        "metric": "t2v/R@1",
        "value": chosen["t2v/R@1"],
        "split": select_on,
        "selected_on": select_on,
    }
    assert {p.name for p in tmp_path.glob("pytorch_model.bin.*")} == {
        "pytorch_model.bin.0",
        "pytorch_model.bin.1",
    }
    # The figures are those of the chosen epoch's weights.
    again = tmp_path / "again"
    assert toy.run("eval", again, *FLAGS, "--init_model", final["checkpoint"]) == 0
    assert results(again)[0]["t2v/MeanR"] == final["t2v/MeanR"]


def test_the_published_way_looks_at_the_test_list_after_every_epoch(
    toy: Toy, tmp_path: Path, results: Results, reads: list[str]
) -> None:
    assert toy.run("train", tmp_path, *FLAGS, "--select_on", "test") == 0
    *epochs, final = results(tmp_path)
    assert reads[:3] == ["read train", "read test", "evaluate test 0"] and reads.count("read test") == 1
    assert [line["epoch"] for line in epochs] == [0, 1] and {line["split"] for line in epochs} == {"test"}
    assert final["t2v/R@1"] == max(line["t2v/R@1"] for line in epochs)
    assert "which is too optimistic" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_held_out_videos_are_never_trained_on_and_the_log_says_how_many(toy: Toy, tmp_path: Path) -> None:
    flags = (*FLAGS, *HELD, "--select_on", "held_out", "--epochs", "1")
    assert toy.run("train", tmp_path, *flags) == 0
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "held out to choose the checkpoint: 3 of 8 training videos" in log
    assert "train on vatex english: 5 videos, 20 examples" in log


def test_pre_training_holds_out_videos_with_their_titles(toy: Toy, tmp_path: Path, results: Results) -> None:
    flags = ("--dataset", "chvtt", "--language", "english", "--select_on", "held_out", "--held_out", "0.3")
    assert toy.run("pretrain", tmp_path, *flags, "--bootstrap", "0") == 0
    held, final = results(tmp_path)
    assert (held["dataset"], held["split"]) == ("chvtt", "held_out")
    assert (final["dataset"], final["split"], final["selected_on"]) == ("msrvtt", "test", "held_out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--eval_list", "absent.txt"), "absent.txt: no such file"),
        (("--eval_store", "absent_lmdb"), "absent_lmdb"),
        (("--dataset", "msrvtt", "--select_on", "val"), "no entry of 'videos' .* --select_on held_out"),
        (("--dataset", "chvtt", "--select_on", "val"), "chvtt has no validation list; --select_on held_out"),
    ],
)
def test_what_is_wrong_is_told_before_training(
    flags: tuple[str, ...],
    message: str,
    toy: Toy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    reads: list[str],
) -> None:
    assert toy.run("train", tmp_path, *FLAGS, *flags) == 2
    assert "read test" not in reads and not list(tmp_path.glob("pytorch_model*"))
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error


@pytest.mark.parametrize("listed", ["train_list.txt", "test_list.txt"])
def test_a_validation_list_that_is_trained_on_or_tested_is_refused(
    listed: str, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "mixed.txt"
    ids = [(toy.data / "vatex" / name).read_text(encoding="utf-8") for name in (listed, "val_list.txt")]
    other.write_text("".join(ids), encoding="utf-8")
    flag = "--train_list" if listed.startswith("train") else "--eval_list"
    assert toy.run("train", tmp_path / "out", *FLAGS, "--select_on", "val", flag, str(other)) == 2
    error = capsys.readouterr().err
    assert "--select_on val: 4 of the " in error and "held_out" in error


def test_a_resumed_run_chooses_as_one_that_was_never_stopped(
    toy: Toy, tmp_path: Path, results: Results, reads: list[str]
) -> None:
    flags = (*FLAGS, *HELD, "--select_on", "held_out", "--save_steps", "0")
    assert toy.run("train", tmp_path, *flags) == 0
    whole, chosen = results(tmp_path), best(tmp_path)
    # As a run that was killed in its second epoch leaves it.
    states = sorted(tmp_path.glob("training_state.*.pt"), key=lambda path: int(path.suffixes[0][1:]))
    states[-1].unlink()
    (tmp_path / "best.json").unlink()
    reads.clear()
    assert toy.run("train", tmp_path, *flags, "--resume", "auto") == 0
    assert reads[:3] == ["read train", "evaluate held_out 1", "read test"]
    assert results(tmp_path) == whole and best(tmp_path) == chosen
    # A run that is done has nothing left to evaluate.
    reads.clear()
    assert toy.run("train", tmp_path, *flags, "--resume", "auto") == 0
    assert reads == ["read train"] and results(tmp_path) == whole


@pytest.fixture(scope="module")
def trained(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that chose as published."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert toy.run("train", folder, *FLAGS, "--select_on", "test", "--use_temp") == 0
    return folder


def test_every_checkpoint_of_a_folder_in_one_table(
    trained: Path, toy: Toy, tmp_path: Path, results: Results
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in trained.glob("pytorch_model.bin.*"):
        shutil.copy(path, folder)
    flags = (*FLAGS, "--use_temp", "--init_model", str(folder))
    assert toy.run("eval", tmp_path / "good", *flags) == 0
    (folder / "pytorch_model.bin.7").write_bytes(b"no checkpoint")
    (folder / "pytorch_model.bin.best").write_bytes(b"")
    (folder / "pytorch_model.bin.8.tmp").write_bytes(b"half")
    assert toy.run("eval", tmp_path / "bad", *flags) == 1
    expected = [line["t2v/MeanR"] for line in results(trained)[:2]]
    for name in ("good", "bad"):
        assert [line["t2v/MeanR"] for line in results(tmp_path / name)] == expected
    log = (tmp_path / "bad" / "log.txt").read_text(encoding="utf-8")
    assert "left out: " in log and "pytorch_model.bin.7" in log and "pytorch_model.bin.best" in log
    assert ".tmp" not in log and log.rstrip().splitlines()[-4].split()[3] == "pytorch_model.bin.0"


def test_a_folder_without_checkpoints(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.run("eval", tmp_path / "out", *FLAGS, "--init_model", str(tmp_path)) == 2
    assert "no pytorch_model.bin.* in this folder" in capsys.readouterr().err


def test_watching_a_run_that_ended(trained: Path, results: Results, reads: list[str]) -> None:
    assert watch_checkpoints.main([str(trained), "--every", "0.1", "--batch_size_val", "3"]) == 0
    watched = results(trained / "watched")
    assert [line["epoch"] for line in watched] == [0, 1]
    assert [line["t2v/MeanR"] for line in watched] == [line["t2v/MeanR"] for line in results(trained)[:2]]
    reads.clear()  # watched before: nothing is evaluated again
    assert watch_checkpoints.main([str(trained), "--once"]) == 0
    assert reads == [] and len(results(trained / "watched")) == 2
    assert (trained / "watched" / "log.txt").read_text(encoding="utf-8").count("pytorch_model.bin.1 ") >= 2


def test_ctrl_c_ends_watching_with_the_table(
    trained: Path, tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("training_state.*", "watched"))
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (run / "config.json").write_text(json.dumps({**settings, "epochs": 3}), encoding="utf-8")
    monkeypatch.setattr(watch_checkpoints.time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGINT))
    # Python's own handler, which it does not install where the tests run in the background of a shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert watch_checkpoints.main([str(run)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert [line["epoch"] for line in results(run / "watched")] == [0, 1]
    log = (run / "watched" / "log.txt").read_text(encoding="utf-8")
    _, table = log.split("stopped by Ctrl-C")
    assert "pytorch_model.bin.0 " in table and "pytorch_model.bin.1 " in table


@pytest.mark.timeout(TIME_LIMIT)
@pytest.mark.parametrize("sharded", [(), ("--fsdp",)], ids=["ddp", "fsdp"])
def test_two_ranks_choose_as_one(
    sharded: tuple[str, ...], toy: Toy, tmp_path: Path, results: Results
) -> None:
    flags = (*FLAGS, *HELD, "--select_on", "held_out")
    assert toy.run("train", tmp_path / "one", *flags) == 0
    program = "main_task_retrieval.py --do_train"
    launch(torchrun(), program, toy, tmp_path / "two", *flags, *sharded)
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert [line["split"] for line in two] == ["held_out", "held_out", "test"]
    for ours, expected in zip(two, one, strict=True):
        ranks = {name: value for name, value in expected.items() if "/" in name}
        assert {name: ours[name] for name in ranks} == pytest.approx(ranks, rel=1e-3)
    assert best(tmp_path / "two")["epoch"] == best(tmp_path / "one")["epoch"]
    assert two[-1]["selected_epoch"] == one[-1]["selected_epoch"]
