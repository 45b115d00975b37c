"""Bad input: exit code 2 and one line that names the flag or file and says what would be right."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import engine.run
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from tests.e2e.conftest import Toy

MSRVTT = ("--dataset", "msrvtt", "--language", "english")


def refused(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path, *flags: str, job: str = "train"
) -> str:
    """The one line that a run with `flags` ends with."""
    capsys.readouterr()
    assert toy.run(job, tmp_path / "out", *flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and ": error: " in lines[0]
    assert not (tmp_path / "out" / "pytorch_model.bin.0").exists()
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "1000"], "--batch_size 1000: larger than the training set of 36"),
        (["--use_frame_fea", "--top_frames", "5"], "--top_frames 5"),
        (["--max_frames", "13", "--frame_sample", "random"], "12"),
        (["--train_list", "no_such_list.csv"], "no_such_list.csv"),
        (["--train_annotations", "no_such_file.json"], "no_such_file.json"),
        (["--train_store", "no_such_store"], "no_such_store"),
        (["--init_model", "no_such_model.bin"], "no_such_model.bin"),
        (["--clip_model", "no-such-clip"], "no-such-clip"),
        (["--language", "chinese"], "--language chinese"),
    ],
)
def test_flags(
    flags: list[str], message: str, toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in refused(toy, capsys, tmp_path, *MSRVTT, *flags)


def test_weights_that_are_not_there_say_what_to_fetch(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache = ("--cache_dir", str(tmp_path / "empty"))
    line = refused(
        toy,
        capsys,
        tmp_path,
        *MSRVTT,
        "--clip_model",
        "ViT-B-32-quickgelu",
        "--clip_weights",
        "openai",
        *cache,
    )
    assert "ViT-B-32" in line and "--clip_weights" in line and str(tmp_path / "empty") in line
    vatex = ("--dataset", "vatex", "--language", "chinese", "--pretrained_text", "hfl/no-such-bert")
    line = refused(toy, capsys, tmp_path, *vatex, *cache)
    assert "hfl/no-such-bert" in line and "--pretrained_text" in line


def test_empty_and_broken_annotations(toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, content in (("empty.json", ""), ("broken.json", '{"sentences": [')):
        (tmp_path / name).write_text(content, encoding="utf-8")
        line = refused(toy, capsys, tmp_path, *MSRVTT, "--train_annotations", str(tmp_path / name))
        assert name in line


def test_a_wrong_column(toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("video\nvideo0\n", encoding="utf-8")
    line = refused(toy, capsys, tmp_path, *MSRVTT, "--train_list", str(wrong))
    assert "wrong.csv" in line and "video_id" in line


@pytest.fixture(scope="module")
def thin_store(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy MSR-VTT store without two training videos and one test video."""
    path = tmp_path_factory.mktemp("thin") / "lmdb"
    whole = FrameStore(toy.data / "msrvtt" / "msrvtt_lmdb")
    with FrameStoreWriter(path) as writer:
        for video_id in whole.video_ids():
            if video_id not in ("video3", "video5", "video14"):
                writer.put(video_id, whole.read_jpegs(video_id, range(whole.num_frames(video_id))))
        writer.finish()
    return path


def test_videos_absent_from_the_store(
    toy: Toy, thin_store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stores = ("--train_store", str(thin_store), "--eval_store", str(thin_store))
    line = refused(toy, capsys, tmp_path, *MSRVTT, *stores)
    assert "2 of 12 videos" in line and "video3" in line and "video5" in line and "--allow_missing" in line
    line = refused(toy, capsys, tmp_path, *MSRVTT, "--eval_store", str(thin_store))
    assert "1 of 8 videos" in line and "video14" in line

    assert toy.run("train", tmp_path / "out", *MSRVTT, *stores, "--allow_missing") == 0
    result = json.loads((tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8"))
    assert (result["videos"], result["videos_of_benchmark"], result["comparable"]) == (7, 8, False)
    assert "not comparable" in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")


def test_data_are_checked_before_weights_are_looked_for(
    toy: Toy,
    thin_store: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking for weights takes a minute where the network is slow or absent."""
    monkeypatch.setattr(engine.run, "build_model", None)
    broken = tmp_path / "broken.json"
    broken.write_text('{"sentences": [', encoding="utf-8")
    for job, flags, message in (
        ("train", ("--train_store", str(thin_store)), "2 of 12 videos"),
        ("train", ("--eval_store", str(thin_store)), "1 of 8 videos"),
        ("train", ("--eval_store", str(thin_store), "--select_on", "test"), "1 of 8 videos"),
        ("train", ("--train_annotations", str(broken)), "broken.json"),
        ("eval", ("--eval_store", str(thin_store)), "1 of 8 videos"),
        ("pretrain", ("--train_annotations", str(broken)), "broken.json"),
    ):
        assert message in refused(toy, capsys, tmp_path, *MSRVTT, *flags, job=job)


def test_a_store_of_other_videos(toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = str(toy.data / "vatex" / "vatex_lmdb")
    line = refused(toy, capsys, tmp_path, *MSRVTT, "--train_store", other, "--allow_missing")
    assert "none of the 12 videos" in line


@pytest.fixture(scope="module")
def english_model(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("english")
    assert toy.run("train", out, *MSRVTT) == 0
    return out / "pytorch_model.bin.0"


def test_checkpoints_that_do_not_fit(
    toy: Toy, english_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    init = ("--init_model", str(english_model))
    line = refused(toy, capsys, tmp_path, "--dataset", "vatex", "--language", "chinese", *init)
    assert "English text encoder" in line and "encoder weights missing" in line
    line = refused(toy, capsys, tmp_path, *MSRVTT, *init, "--use_temp")
    assert "without --use_temp" in line
    line = refused(toy, capsys, tmp_path, *MSRVTT, *init, "--clip_model", "toy")
    assert "of another shape" in line and "visual_encoder.visual" in line


def test_checkpoints_that_are_none(
    toy: Toy, english_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    half = tmp_path / "half.bin"
    half.write_bytes(english_model.read_bytes()[: english_model.stat().st_size // 2])
    assert "truncated" in refused(toy, capsys, tmp_path, *MSRVTT, "--init_model", str(half))

    marker = tmp_path / "code_has_run"
    evil = tmp_path / "evil.bin"
    torch.save({"weight": _Evil(marker)}, evil)
    assert "refused" in refused(toy, capsys, tmp_path, *MSRVTT, "--init_model", str(evil))
    evil.write_bytes(pickle.dumps(_Evil(marker)))
    assert "evil.bin" in refused(toy, capsys, tmp_path, *MSRVTT, "--init_model", str(evil))
    assert not marker.exists()

    state = torch.load(english_model, weights_only=True)
    state["visual_encoder.visual.proj"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.bin")
    line = refused(toy, capsys, tmp_path, *MSRVTT, "--init_model", str(tmp_path / "nan.bin"))
    assert "visual_encoder.visual.proj" in line and "not finite" in line


class _Evil:
    """Unpickling this would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.marker),)


def test_an_output_folder_that_cannot_be_written(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # A file in the place of the folder: also root, who may write anywhere, fails on it.
    (tmp_path / "out").write_text("", encoding="utf-8")
    capsys.readouterr()
    assert toy.run("train", tmp_path / "out", *MSRVTT) == 2
    assert "--output_dir" in capsys.readouterr().err


def test_a_folder_for_tensorboard_that_cannot_be_written(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    line = refused(toy, capsys, tmp_path, *MSRVTT, "--logdir", str(tmp_path / "file" / "logs"))
    assert "--logdir" in line and "--output_dir" not in line


def test_an_unreadable_clip_is_replaced_in_training_and_named_in_evaluation(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """FR-18: a frame of 0 bytes and a cut JPEG in the store of a training set, then of a test set."""
    store = tmp_path / "lmdb"
    whole = FrameStore(toy.data / "msrvtt" / "msrvtt_lmdb")
    with FrameStoreWriter(store) as writer:
        for video_id in whole.video_ids():
            jpegs = whole.read_jpegs(video_id, range(whole.num_frames(video_id)))
            if video_id in ("video2", "video15"):
                jpegs = [jpeg[: len(jpeg) // 3] for jpeg in jpegs]
            writer.put(video_id, jpegs)
        writer.finish()
    assert toy.run("train", tmp_path / "train", *MSRVTT, "--train_store", str(store)) == 0
    log = (tmp_path / "train" / "log.txt").read_text(encoding="utf-8")
    assert "3 unreadable clips were replaced" in log and "video2" in log
    line = refused(toy, capsys, tmp_path, *MSRVTT, "--eval_store", str(store), job="eval")
    assert "video15" in line
    shutil.rmtree(store)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_black_clips_and_an_empty_caption_train_with_finite_losses(
    precision: str, toy: Toy, tmp_path: Path
) -> None:
    """FR-20: black frames are pictures like others, and an empty caption is its start and end token."""
    store = tmp_path / "lmdb"
    whole = FrameStore(toy.data / "msrvtt" / "msrvtt_lmdb")
    black = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    with FrameStoreWriter(store) as writer:
        for video_id in whole.video_ids():
            count = whole.num_frames(video_id)
            dark = video_id in ("video1", "video13")
            writer.put(video_id, [black] * count if dark else whole.read_jpegs(video_id, range(count)))
        writer.finish()
    annotations = json.loads((toy.data / "msrvtt" / "MSRVTT_data.json").read_text(encoding="utf-8"))
    annotations["sentences"][0]["caption"] = ""
    (tmp_path / "data.json").write_text(json.dumps(annotations), encoding="utf-8")
    flags = ("--train_store", str(store), "--train_annotations", str(tmp_path / "data.json"), "--epochs", "6")
    more = ("--use_temp", "--use_frame_fea", "--lr", "1e-3", "--precision", precision)
    assert toy.run("train", tmp_path / "out", *MSRVTT, *flags, "--eval_store", str(store), *more) == 0
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    losses = [float(line.split(" loss ")[1].split()[0]) for line in log.splitlines() if " loss " in line]
    assert len(losses) == 54 and np.isfinite(losses).all()


def test_test_videos_that_the_store_lacks_are_named_before_the_training(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The ids of the annotations begin with v_, those of this store do not.
    whole = FrameStore(toy.data / "activitynet" / "activitynet_lmdb")
    ids = sorted(whole.video_ids())
    with FrameStoreWriter(tmp_path / "store") as writer:
        for video_id in ids[:-1]:
            writer.put(video_id.removeprefix("v_"), whole.read_jpegs(video_id, range(4)))
    stores = ("--train_store", str(tmp_path / "store"), "--eval_store", str(tmp_path / "store"))
    flags = ("--dataset", "activitynet", "--language", "english", *stores)
    line = refused(toy, capsys, tmp_path, *flags)
    assert f"1 of 5 videos are absent from the frame store: {ids[-1].removeprefix('v_')}" in line
    assert toy.run("train", tmp_path / "run", *flags, "--allow_missing") == 0
