"""The data doctor on MSVD, LSMDC, DiDeMo and ActivityNet: what is wrong in their files, and leaks."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataloaders.datasets.known_splits import list_digest
from dataloaders.datasets.registry import DATASETS
from dataloaders.datasets.spec import HELD_OUT, KnownList
from dataloaders.frame_store.writer import FrameStoreWriter
from tests.dataloaders.toy import write_json
from tests.tools.test_check_data import checks, found, jpeg, msrvtt, pictures, published_store, run
from tools.check_data import main


def moment(video: str, number: int, *, times: Any = ((0, 1),)) -> dict[str, Any]:
    about = {"video": f"{video}.mp4", "description": f"text {number}", "annotation_id": number}
    return {**about, "times": [list(time) for time in times], "num_segments": 6}


def didemo(folder: Path, **splits: list[dict[str, Any]]) -> None:
    (folder / "didemo").mkdir()
    for split, moments in splits.items():
        write_json(folder / "didemo" / f"{split}_data.json", moments)


def test_moments_outside_of_their_video_and_repeated_annotations(tmp_path: Path) -> None:
    didemo(tmp_path, train=[moment("a", 1), moment("b", 1, times=((5, 6),)), moment("c", 3, times=((3, 2),))])
    report = run(tmp_path, "--dataset", "didemo", code=1)
    assert found(report, "duplicate-annotation", "problem")["some"] == ["1"]
    fault = found(report, "annotation-fault", "warning")
    assert fault["count"] == 2 and "moments outside of their video: 2" in fault["message"]


def test_a_video_in_two_splits_also_in_validation_and_test(tmp_path: Path) -> None:
    train, val, test = ([moment(v, i) for i, v in enumerate(ids)] for ids in ("abc", "dex", "xf"))
    didemo(tmp_path, train=train, val=val, test=[*test, moment("a", 9)])
    report = run(tmp_path, "--dataset", "didemo", code=1)
    leaks = [item for item in report["findings"] if item["check"] == "video-leak"]
    assert {(leak["split"], *leak["some"]) for leak in leaks} == {("train / test", "a"), ("val / test", "x")}
    assert all(leak["level"] == "problem" for leak in leaks)


def test_a_published_list_with_another_number_of_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownList("small", 2, list_digest(["a", "b"]), HELD_OUT, captions=5)
    monkeypatch.setitem(DATASETS, "didemo", replace(DATASETS["didemo"], known_lists=(known,)))
    didemo(tmp_path, test=[moment("a", 1), moment("b", 2), moment("b", 3)])
    report = run(tmp_path, "--dataset", "didemo", code=0)
    assert "3 captions; the published list has 5" in found(report, "caption-total", "warning")["message"]


def test_a_movie_in_training_and_in_the_test(tmp_path: Path) -> None:
    (tmp_path / "lsmdc").mkdir()
    for name, movie, start in (("annos_training", "1_M", 10), ("challenge_1000_publictect", "1_M", 11)):
        clip = f"{movie}_00.00.{start}.000-00.00.{start + 2}.500"
        line = "\t".join([clip, *["00.00.00.000"] * 4, f"text {start}"]) + "\n"
        (tmp_path / "lsmdc" / f"LSMDC16_{name}.csv").write_text(line, "utf-8")
    report = run(tmp_path, "--dataset", "lsmdc", code=0)
    assert found(report, "source-leak", "note")["count"] == 1
    assert found(report, "overlap-leak", "warning")["count"] == 1


def test_activitynet_with_a_moment_after_the_end_and_a_repeated_video(tmp_path: Path) -> None:
    (tmp_path / "activitynet").mkdir()
    entry = '{"duration": 9, "timestamps": [[0, 30]], "sentences": ["text"]}'
    text = f'{{"v_a": {entry}, "v_b": {entry}, "v_a": {entry}}}'
    (tmp_path / "activitynet" / "train.json").write_text(text, "utf-8")
    report = run(tmp_path, "--dataset", "activitynet", code=1)
    assert found(report, "duplicate-annotation", "problem")["some"] == ["v_a"]
    assert found(report, "annotation-fault", "warning")["count"] == 2


def test_a_pickle_that_would_run_something_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "msvd").mkdir()
    (tmp_path / "msvd" / "raw-captions.pkl").write_bytes(pickle.dumps(print))
    (tmp_path / "msvd" / "test_list.txt").write_text("a_1_9\n", "utf-8")
    report = run(tmp_path, "--dataset", "msvd", code=1)
    problem = found(report, "unreadable", "problem")["message"]
    assert "raw-captions.pkl: is not a pickle of plain values, it names" in problem


def test_split_checks_the_other_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = msrvtt(tmp_path)
    for split, ids in (("train", "v0\nv1"), ("val", "v2"), ("test", "v8\nv1")):
        (here / f"MSRVTT_{split}.full.csv").write_text(f"video_id\n{ids}\n", "utf-8")
    report = run(tmp_path, "--dataset", "msrvtt", "--split", "full", code=1)
    assert list(report["splits"]) == ["train", "val", "test"]
    assert found(report, "video-leak", "problem")["some"] == ["v1"]
    assert "count" in checks(report)  # the name implies another number
    capsys.readouterr()
    assert main(["--dataset", "msrvtt", "--split", "8k"]) == 2
    assert "--split 8k: choose from msrvtt 9k, 7k, full; vatex hgr, test1k5" in capsys.readouterr().err


def test_frames_after_the_first_30_seconds(tmp_path: Path) -> None:
    didemo(tmp_path, train=[moment("a", 1), moment("b", 2)])
    with FrameStoreWriter(tmp_path / "didemo" / "didemo_lmdb") as writer:
        writer.put("a", [jpeg(1), jpeg(2)], record={"times": [0.0, 45.0]})
        writer.put("b", [jpeg(3), jpeg(4)], record={"times": [0.0, 29.0]})
    report = run(tmp_path, "--dataset", "didemo", code=0)
    late = found(report, "late-frames", "note")
    assert late["some"] == ["a"] and "--first_seconds 30" in late["message"]
    assert "no-times" not in checks(report)
    shutil.rmtree(tmp_path / "didemo" / "didemo_lmdb")
    published_store(tmp_path / "didemo" / "didemo_lmdb", {"a": pictures(1), "b": pictures(2)})
    report = run(tmp_path, "--dataset", "didemo", code=0)
    assert found(report, "no-times", "warning")["count"] == 2
