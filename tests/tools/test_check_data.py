"""The data doctor on small data sets in the three file formats."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from dataloaders.datasets.registry import DATASETS
from dataloaders.datasets.splits import spread
from dataloaders.frame_store.writer import FrameStoreWriter
from tests.dataloaders.toy import REALDATA, write_json, write_lines
from tools.check_data import main
from tools.doctor.clip_overlap import overlapping_pairs, shared_sources, spans_of
from tools.doctor.text_checks import strangeness
from video.clip_ids import Part

ROOT = Path(__file__).resolve().parents[2]


def jpeg(seed: int) -> bytes:
    picture = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def published_store(path: Path, frames: dict[str, Sequence[bytes | None]]) -> None:
    """A store in the published layout; None leaves a frame out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for video_id, pictures in frames.items():
            for index, picture in enumerate(pictures):
                if picture is not None:
                    txn.put(f"{video_id}_{index}".encode(), picture)


def pictures(seed: int, count: int = 4) -> list[bytes | None]:
    return [jpeg(100 * seed + i) for i in range(count)]


def msrvtt(
    folder: Path, *, train: Sequence[str] = ("v0", "v1", "v2"), test: Sequence[str] = ("v8", "v9")
) -> Path:
    """MSR-VTT's three files in folder/msrvtt, two captions per video."""
    here = folder / "msrvtt"
    here.mkdir(parents=True)
    ids = list(dict.fromkeys([*train, *test]))
    sentences = [{"video_id": v, "caption": f"{v} text {i}"} for v in ids for i in range(2)]
    write_json(here / "MSRVTT_data.json", {"videos": [{"video_id": v} for v in ids], "sentences": sentences})
    (here / "MSRVTT_train.9k.csv").write_text("\n".join(["video_id", *train, ""]), "utf-8")
    with open(here / "MSRVTT_JSFUSION_test.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("key", "vid_key", "video_id", "sentence"), *((f"k{v}", v, v, f"{v} text 0") for v in test)]
        )
    return here


def vatex(folder: Path, splits: dict[str, Sequence[str]]) -> Path:
    here = folder / "vatex"
    here.mkdir(parents=True)
    data = {v: {"enCap": [f"{v} text"], "chCap": [f"{v} 字"]} for ids in splits.values() for v in ids}
    write_json(here / "vatex_data.json", data)
    for split, ids in splits.items():
        (here / f"{split}_list.txt").write_text("".join(f"{v}\n" for v in ids), "utf-8")
    return here


def run(tmp_path: Path, *argv: str, code: int) -> dict[str, Any]:
    """The JSON report of a run that must end with `code`."""
    out = tmp_path / "report.json"
    assert main(["--data_dir", str(tmp_path), "--json", str(out), *argv]) == code
    report = json.loads(out.read_text("utf-8"))
    assert report["exit_code"] == code
    return report


def found(report: dict[str, Any], check: str, level: str) -> dict[str, Any]:
    """The only finding of a check; it must have this level."""
    (finding,) = [item for item in report["findings"] if item["check"] == check]
    assert finding["level"] == level
    return finding


def checks(report: dict[str, Any], *levels: str) -> set[str]:
    return {
        item["check"] for item in report["findings"] if item["level"] in (levels or ("problem", "warning"))
    }


def test_good_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = msrvtt(tmp_path)
    published_store(
        here / "msrvtt_lmdb", {v: pictures(i) for i, v in enumerate(["v0", "v1", "v2", "v8", "v9"])}
    )
    report = run(tmp_path, "--dataset", "msrvtt", code=0)
    assert checks(report) == {"count"}  # the lists' names imply 9,000 and 1,000
    assert list(report["splits"]) == ["train", "test"]
    assert report["splits"]["train"]["videos"] == 3
    assert report["splits"]["train"]["captions a video"] == "2"
    assert report["splits"]["train"]["frames a video"] == {"4": 3}
    said = capsys.readouterr().out
    assert "MSRVTT_train.9k.csv: lists 3 videos, its name implies 9,000" in said
    assert said.endswith("0 problems, 2 warnings, 0 notes\n")
    assert run(tmp_path, "--dataset", "msrvtt", "--strict", code=1)


def test_missing_broken_and_same_videos(tmp_path: Path) -> None:
    here = msrvtt(
        tmp_path, train=("hole", "cut", "empty", "text", "fewer", "fine", "twin"), test=("v8", "v9")
    )
    whole = pictures(1)
    assert whole[1] is not None
    published_store(
        here / "msrvtt_lmdb",
        {
            "hole": [*whole[:1], None, *whole[2:]],
            "cut": [*whole[:1], whole[1][:-200], *whole[2:]],
            "empty": [*whole[:3], b""],
            "text": [*whole[:3], b"no picture"],
            "fewer": pictures(2, 3),
            "fine": pictures(3),
            "twin": pictures(3),
            "v8": pictures(3),
        },
    )
    report = run(tmp_path, "--dataset", "msrvtt", "--sample", "all", code=1)
    assert found(report, "missing-video", "problem")["some"] == ["v9"]
    broken = found(report, "broken-video", "problem")
    assert broken["count"] == 3
    assert any("'cut', frame 1" in text and "cut off" in text for text in broken["some"])
    assert any("'empty', frame 3" in text for text in broken["some"])
    assert any("'text', frame 3" in text and "not a JPEG" in text for text in broken["some"])
    # In a store without a manifest a video ends where the next key is not found.
    assert found(report, "fewer-frames", "warning")["some"] == ["hole: 1", "fewer: 3"]
    assert found(report, "same-pictures", "warning")["some"] == ["fine = twin"]
    assert found(report, "picture-leak", "problem")["count"] == 2
    report = run(tmp_path, "--dataset", "msrvtt", "--sample", "0", code=1)
    assert "broken-video" not in checks(report)


def test_a_frame_in_the_middle_is_absent(tmp_path: Path) -> None:
    here = msrvtt(tmp_path, train=("hole", "fine"), test=("v8",))
    thirty = pictures(1, 30)
    published_store(
        here / "msrvtt_lmdb",
        {"hole": [*thirty[:17], None, *thirty[18:]], "fine": pictures(2, 30), "v8": pictures(3, 30)},
    )
    broken = found(run(tmp_path, "--dataset", "msrvtt", code=1), "broken-video", "problem")
    assert broken["count"] == 1 and "'hole', frame 17: not stored" in broken["some"][0]


def test_parts_that_are_whole_videos_and_files_that_are_cut_off(tmp_path: Path) -> None:
    """By the manifests: VATEX's ids and MSR-VTT's annotations say how long a video is to be."""
    whole, part, half = "a_000010_000020", "b_000010_000020", "c_000000_000010"
    here = vatex(tmp_path, {"train": [whole, part, half], "val": ["v"], "test": ["t"]})
    records = {whole: {"duration": 60.0}, part: {"duration": 10.1}}
    records[half] = {"duration": 10.0, "decoded_share": 0.49, "decoded_until": 4.9}
    with FrameStoreWriter(here / "vatex_lmdb") as writer:
        for video_id in (whole, part, half, "v", "t"):
            writer.put(video_id, [jpeg(1)], record=records.get(video_id, {}))
    report = run(tmp_path, "--dataset", "vatex", "--splits", "train", code=0)
    assert found(report, "clip-length", "warning")["some"] == [f"{whole}: 60 s, not 10 s"]
    assert found(report, "partly-decoded", "warning")["some"] == [f"{half}: 49 %"]
    here = msrvtt(tmp_path)
    video = {"video_id": "v0", "url": "u", "start time": 5.0, "end time": 20.0}
    content = json.loads((here / "MSRVTT_data.json").read_text("utf-8"))
    write_json(here / "MSRVTT_data.json", {**content, "videos": [video]})
    with FrameStoreWriter(here / "msrvtt_lmdb") as writer:
        for video_id in ("v0", "v1", "v2"):
            writer.put(video_id, [jpeg(1)], record={"duration": 200.0})
    report = run(tmp_path, "--dataset", "msrvtt", "--splits", "train", code=0)
    assert found(report, "clip-length", "warning")["some"] == ["v0: 200 s, not 15 s"]


def test_without_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    msrvtt(tmp_path)
    report = run(tmp_path, "--dataset", "msrvtt", code=0)
    assert [item["check"] for item in report["findings"]].count("no-store") == 2
    assert "so no video is checked" in capsys.readouterr().out
    report = run(tmp_path, "--dataset", "msrvtt", "--eval_store", str(tmp_path / "none"), code=1)
    assert "no such folder or file" in found(report, "store", "problem")["message"]


def test_leaks(tmp_path: Path) -> None:
    here = vatex(
        tmp_path,
        {
            "train": ["AAAAAAAAAAA_000000_000010", "shared", "BBBBBBBBBBB_000003_000013"],
            "val": ["AAAAAAAAAAA_000005_000015"],
            "test": ["shared", "BBBBBBBBBBB_000013_000023", "other"],
        },
    )
    data = json.loads((here / "vatex_data.json").read_text("utf-8"))
    data["other"]["enCap"] = ["bbbbbbbbbbb_000003_000013  TEXT"]
    write_json(here / "vatex_data.json", data)
    report = run(tmp_path, "--dataset", "vatex", "--language", "english", code=1)
    assert found(report, "video-leak", "problem")["some"] == ["shared"]
    assert found(report, "video-leak", "problem")["split"] == "train / test"
    assert found(report, "caption-leak", "note")["count"] == 2
    overlap = found(report, "overlap-leak", "warning")
    assert overlap["split"] == "train / val" and overlap["count"] == 1
    assert {f["split"] for f in report["findings"] if f["check"] == "source-leak"} == {
        "train / val",
        "train / test",
    }


def test_spans_of_msrvtt_come_from_its_annotations(tmp_path: Path) -> None:
    here = msrvtt(tmp_path)
    data = json.loads((here / "MSRVTT_data.json").read_text("utf-8"))
    for video, start in zip(data["videos"], (0, 5, 30, 9, 50), strict=True):
        video |= {"url": "u", "start time": start, "end time": start + 10.5}
    write_json(here / "MSRVTT_data.json", data)
    report = run(tmp_path, "--dataset", "msrvtt", code=0)
    assert found(report, "overlap", "note")["some"] == ["v0 + v1"]
    assert found(report, "overlap-leak", "warning")["some"] == ["v8 + v0", "v8 + v1"]
    assert found(report, "source-leak", "note")["count"] == 2


def test_strange_and_shared_captions(tmp_path: Path) -> None:
    here = vatex(tmp_path, {"train": ["a", "b"], "test": ["c"]})
    captions = ["", "nan", "1,000", "same text", "same  Text", "123 men", "\u200b\u00ad", "a mo\u00adtor"]
    data = {v: {"enCap": captions if v == "a" else ["SAME text"]} for v in "abc"}
    write_json(here / "vatex_data.json", data)
    report = run(tmp_path, "--dataset", "vatex", "--language", "english", code=0)
    strange = {f["message"]: f["some"] for f in report["findings"] if f["check"] == "strange-caption"}
    assert sorted(strange) == [
        "captions that are empty, used unchanged: 2",
        "captions that look like a missing value, used unchanged: 1",
        "captions that look like a number, used unchanged: 1",
    ]
    assert ["a: 'nan'"] in strange.values()
    assert found(report, "invisible", "warning")["some"] == ["a: 'a mo\\xadtor'"]
    assert found(report, "shared-caption", "note")["some"] == ["same text"]
    assert found(report, "repeated-caption", "note")["count"] == 1


@pytest.mark.parametrize("text", ["null", "n/a", "none", "nan", "", "-", "12", "3.5", "1e5", "50%", "007"])
def test_strange_texts(text: str) -> None:
    assert strangeness(text)


@pytest.mark.parametrize("text", ["12 monkeys", "none of them", "a", "一", "null pointer", "2 + 2"])
def test_ordinary_texts(text: str) -> None:
    assert strangeness(text) is None


def test_repeated_ids(tmp_path: Path) -> None:
    here = msrvtt(tmp_path)
    with open(here / "MSRVTT_train.9k.csv", "a", encoding="utf-8") as file:
        file.write("v1\n")
    data = json.loads((here / "MSRVTT_data.json").read_text("utf-8"))
    data["videos"].append({"video_id": "v2"})
    write_json(here / "MSRVTT_data.json", data)
    report = run(tmp_path, "--dataset", "msrvtt", "--splits", "train", code=1)
    assert found(report, "duplicate-listed", "warning")["some"] == ["v1"]
    assert found(report, "duplicate-annotation", "problem")["some"] == ["v2"]

    here = vatex(tmp_path, {"test": ["a", "b"]})
    (here / "vatex_data.json").write_text(
        '{"a": {"enCap": ["x"]}, "b": {"enCap": ["y"]}, "a": {"enCap": ["z"]}}', "utf-8"
    )
    report = run(tmp_path, "--dataset", "vatex", "--language", "english", code=1)
    assert found(report, "duplicate-annotation", "problem")["some"] == ["a"]

    (tmp_path / "chvtt").mkdir()
    line = {"docid": 7, "duration": 3, "title": "题", "tag": "签", "title_eng": "t", "tag_eng": "g"}
    write_lines(tmp_path / "chvtt" / "videoinfo_bilingual.json", [line, line])
    report = run(tmp_path, "--dataset", "chvtt", code=1)
    assert found(report, "duplicate-annotation", "problem")["some"] == ["7"]
    assert list(report["splits"]) == ["pretrain"]


def test_a_byte_order_mark_is_noted(tmp_path: Path) -> None:
    here = msrvtt(tmp_path)
    path = here / "MSRVTT_train.9k.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    report = run(tmp_path, "--dataset", "msrvtt", code=0)
    assert "MSRVTT_train.9k.csv" in found(report, "bom", "note")["message"]


def test_stores_with_bare_docids(tmp_path: Path) -> None:
    (tmp_path / "chvtt").mkdir()
    lines = [{"query": f"问{i}", "videolist": [{"docid": str(i)}]} for i in range(3)]
    write_lines(tmp_path / "chvtt" / "query_data_val_bilingual.json", lines)
    published_store(tmp_path / "chvtt" / "query_lmdb", {str(i): pictures(i) for i in range(3)})
    report = run(tmp_path, "--dataset", "chvtt", code=0)
    assert report["splits"]["test"]["frames a video"] == {"4": 3}


def test_unreadable_and_incomplete_files_are_problems(tmp_path: Path) -> None:
    here = vatex(tmp_path, {"train": ["a"], "test": ["c"]})
    write_json(here / "vatex_data.json", {"a": {"enCap": ["x"], "chCap": ["字"]}, "c": {"enCap": ["y"]}})
    report = run(tmp_path, "--dataset", "vatex", code=1)
    message = found(report, "unreadable", "problem")["message"]
    assert "1 of the 1 videos" in message and "no chinese captions (chCap): c" in message
    assert checks(run(tmp_path, "--dataset", "vatex", "--language", "english", code=0)) == set()
    report = run(tmp_path, "--dataset", "vatex", "--splits", "train", "val", code=1)
    assert "val_list.txt" in found(report, "absent", "problem")["message"]


def test_flags_of_the_main_programs_name_the_files(tmp_path: Path) -> None:
    here, mine = vatex(tmp_path / "elsewhere", {"train": ["a", "b"], "test": ["c"]}), tmp_path / "empty"
    names = {"annotations": "vatex_data.json", "list": "{}_list.txt"}
    flags = [
        text
        for side, split in (("train", "train"), ("eval", "test"))
        for field, name in names.items()
        for text in (f"--{side}_{field}", str(here / name.format(split)))
    ]
    report = run(tmp_path, "--dataset", "vatex", "--data_dir", str(mine), *flags, code=0)
    assert {split: facts["videos"] for split, facts in report["splits"].items()} == {"train": 2, "test": 1}
    msrvtt(tmp_path)
    argv = ["--dataset", "vatex", "--language", "english", "--eval_dataset", "msrvtt", *flags[:4]]
    report = run(tmp_path, *argv, code=0)
    assert {split: facts["videos"] for split, facts in report["splits"].items()} == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dataset", "msrvtt"], "nothing to check, none of these files exists"),
        (
            ["--dataset", "msrvtt", "--language", "chinese"],
            "--language chinese: msrvtt has captions in english only",
        ),
        (["--dataset", "vatex", "--eval_dataset", "msrvtt"], "--language chinese: msrvtt has"),
    ],
)
def test_nothing_to_check_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main([*argv, "--data_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["--dataset", "vatex", "--sample", "-1"]])
def test_wrong_flags(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2


def test_an_unknown_data_set_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, argv in (("--dataset", []), ("--eval_dataset", ["--dataset", "vatex"])):
        assert main([*argv, flag, "x"]) == 2
        assert f"error: {flag} x: choose from msrvtt, vatex" in capsys.readouterr().err


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    msrvtt(tmp_path)
    command = [sys.executable, "tools/check_data.py", "--dataset", "msrvtt", "--data_dir", str(tmp_path)]
    # A caption with characters outside of the terminal's encoding must not end the program.
    (tmp_path / "msrvtt" / "MSRVTT_JSFUSION_test.csv").write_text(
        "video_id,sentence\nv8,\u96ea\nv9,\u96ea\n", "utf-8"
    )
    plain = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=plain)
    assert "several videos: 1 (\\u96ea)" in done.stdout
    assert (done.returncode, done.stderr) == (0, "") and "0 problems" in done.stdout


def test_overlaps_of_spans() -> None:
    spans = {"a": Part("s", 0, 10), "b": Part("s", 10, 20), "c": Part("s", 19, 30), "d": Part("t", 0, 99)}
    assert overlapping_pairs(spans, "abcde") == [("b", "c")]
    assert shared_sources(spans, ["b", "d", "e"], ["a", "b", "c"]) == (["b"], [("b", "c")])
    assert spans_of(DATASETS["vatex"], Path("none"), ["-x_y_000012_000022", "video7"]) == {
        "-x_y_000012_000022": Part("-x_y", 12, 22)
    }


def test_a_sample_is_spread_over_the_split() -> None:
    assert spread("abcdefgh", 4) == ["a", "c", "e", "g"]
    assert spread("abc", None) == spread("abc", 9) == ["a", "b", "c"] and spread("abc", 0) == []


@pytest.fixture(scope="module")
def real_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MSR-VTT's real files in the default layout."""
    source = REALDATA / "annotations" / "msrvtt"
    if not source.is_dir():
        pytest.skip("real MSR-VTT annotations are not there (../shared/realdata)")
    here = tmp_path_factory.mktemp("real") / "msrvtt"
    here.mkdir()
    merged: dict[str, list[object]] = {"videos": [], "sentences": []}
    for name in ("train_val_annotation.zip", "test_videodatainfo.json.zip"):
        with zipfile.ZipFile(source / name) as archive:
            (member,) = [m for m in archive.namelist() if m.endswith("videodatainfo.json")]
            content = json.loads(archive.read(member))
        merged = {key: merged[key] + content[key] for key in merged}
    write_json(here / "MSRVTT_data.json", merged)
    for path in source.glob("*.csv"):
        (here / path.name).write_bytes(path.read_bytes())
    return here.parent


def test_real_msrvtt(real_data_dir: Path) -> None:
    report = run(real_data_dir, "--dataset", "msrvtt", code=0)
    assert report["splits"]["train"]["list"].startswith("train 9k list (9,000 videos)")
    assert report["splits"]["test"]["list"] == "JSFusion 1k-A test list (1,000 videos)"
    assert checks(report) == {"overlap-leak"}
    assert found(report, "overlap-leak", "warning")["count"] == 52
    assert found(report, "source-leak", "note")["count"] == 372
    assert found(report, "caption-leak", "note")["count"] == 103


def test_real_train_9k_must_not_meet_the_full_test(real_data_dir: Path) -> None:
    full = real_data_dir / "msrvtt" / "MSRVTT_test.full.csv"
    report = run(real_data_dir, "--dataset", "msrvtt", "--eval_list", str(full), code=1)
    assert found(report, "video-leak", "problem")["count"] == 1990
