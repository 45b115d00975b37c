"""Every job on every data set in every language it has, on the toy data, and what a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataloaders.datasets.registry import DATASETS
from tests.e2e.conftest import Toy
from tools.toy.field_annotations import FIELD_WRITERS

Results = Callable[[Path], list[dict[str, Any]]]
JOBS = [
    (job, dataset, language)
    for job in ("pretrain", "train", "eval")
    for dataset, spec in DATASETS.items()
    for language in spec.languages
    if dataset not in FIELD_WRITERS or job == "train"
]
PROTOCOLS = {"msvd": "several_captions", "lsmdc": "one_caption"} | dict.fromkeys(
    ("didemo", "activitynet"), "paragraph"
)


@pytest.mark.parametrize(("job", "dataset", "language"), JOBS)
def test_job(job: str, dataset: str, language: str, toy: Toy, tmp_path: Path, results: Results) -> None:
    code = toy.run(
        job, tmp_path, "--dataset", dataset, "--language", language, "--use_temp", "--use_frame_fea"
    )
    assert code == 0
    (result,) = results(tmp_path)
    tested = {"chinese": "vatex", "english": "msrvtt"}[language] if job == "pretrain" else dataset
    assert result["dataset"] == tested and result["language"] == language
    assert "comparable" not in result  # the toy lists are not published ones
    if dataset in FIELD_WRITERS:
        assert result["protocol"]["name"] == PROTOCOLS[dataset]
        assert result["captions"] == {"msvd": 25}.get(dataset, 5) and result["videos"] == 5
    assert result["epoch"] == (None if job == "eval" else 0)
    for direction in ("t2v", "v2t"):
        assert (
            0
            <= result[f"{direction}/R@1"]
            <= result[f"{direction}/R@5"]
            <= result[f"{direction}/R@10"]
            <= 100
        )
        assert result[f"{direction}/MedianR"] >= 1 and result[f"{direction}/MeanR"] >= 1


def test_what_a_run_leaves(toy: Toy, tmp_path: Path, results: Results) -> None:
    logdir = tmp_path / "tensorboard"
    flags = ("--dataset", "msrvtt", "--language", "english", "--epochs", "2", "--logdir", str(logdir))
    assert toy.run("train", tmp_path / "out", *flags) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("config.json", "log.txt", "metrics.jsonl", "steps.jsonl"),
        *("pytorch_model.bin.0", "pytorch_model.bin.1", "training_state.9.pt", "training_state.18.pt"),
        "best.json",
    }
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["epochs"] == 2 and config["dataset"] == "msrvtt"
    assert config["precision"] == "fp32", "what was chosen"
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    for said in (
        "image tower",
        "lr 1.00e-04",
        "batch 4 = 1 ranks",
        "fp32 on cpu",
        "precision fp32: --precision auto, no GPU is used",
        "clips/s",
        "reported: epoch 2 of 2",
    ):
        assert said in log
    assert [r["epoch"] for r in results(tmp_path / "out")] == [1]  # --select_on last
    assert any("tfevents" in path.name for path in (logdir / "out").iterdir())


def test_a_folder_that_holds_a_training(
    toy: Toy, tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second training is refused, an evaluation adds to it, --overwrite replaces it."""
    flags = ("--dataset", "msrvtt", "--language", "english", "--use_temp")
    assert toy.run("train", tmp_path, *flags) == 0
    trained = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert toy.run("train", tmp_path, *flags, "--epochs", "2") == 2
    error = capsys.readouterr().err
    assert "holds a training (training_state.9.pt, pytorch_model.bin.0, steps.jsonl, ...)" in error
    assert error.count("\n") == 1 and {p.name: p.read_bytes() for p in tmp_path.iterdir()} == trained

    model = ("--init_model", str(tmp_path / "pytorch_model.bin.0"), "--max_frames", "2")
    assert toy.run("eval", tmp_path, *model) == 0
    for name in trained.keys() - {"log.txt", "metrics.jsonl"}:
        assert (tmp_path / name).read_bytes() == trained[name], name
    assert json.loads((tmp_path / "config.eval.json").read_text(encoding="utf-8"))["max_frames"] == 2
    assert [(r["job"], r["epoch"]) for r in results(tmp_path)] == [("train", 0), ("eval", None)]

    assert toy.run("train", tmp_path, *flags, "--overwrite", "--seed", "7", "--batch_size", "6") == 0
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["seed"] == 7
    assert [r["job"] for r in results(tmp_path)] == ["train"]
    assert [path.name for path in tmp_path.glob("training_state.*")] == ["training_state.6.pt"]
    assert "deleted the earlier training" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_run_that_is_refused_says_why_in_its_log(toy: Toy, tmp_path: Path) -> None:
    flags = ("--dataset", "msrvtt", "--language", "english")
    assert toy.run("train", tmp_path, *flags, "--batch_size", "1000") == 2
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "ERROR --batch_size 1000: larger than the training set" in log
    assert not (tmp_path / "config.json").exists()
    assert toy.run("train", tmp_path, *flags) == 0  # logs alone do not make a folder used


def test_a_saved_model_evaluates_to_the_figures_of_its_epoch(
    toy: Toy, tmp_path: Path, results: Results
) -> None:
    flags = ("--dataset", "vatex", "--language", "english", "--use_temp", "--use_frame_fea", "--lr", "1e-3")
    assert toy.run("train", tmp_path / "train", *flags) == 0
    model = str(tmp_path / "train" / "pytorch_model.bin.0")
    for batch, workers in (("3", "0"), ("64", "1")):
        out = tmp_path / f"eval{batch}"
        more = ("--init_model", model, "--batch_size_val", batch, "--num_thread_reader", workers)
        assert toy.run("eval", out, *flags, *more) == 0
        trained, evaluated = results(tmp_path / "train")[0], results(out)[0]
        metrics = {name for name in trained if "/" in name}
        assert {n: evaluated[n] for n in metrics} == {n: trained[n] for n in metrics}


def test_fine_tuning_goes_on_from_pre_training(toy: Toy, tmp_path: Path) -> None:
    flags = ("--language", "english", "--use_temp", "--use_frame_fea")
    assert toy.run("pretrain", tmp_path / "pre", "--dataset", "chvtt", *flags) == 0
    pretrained = tmp_path / "pre" / "pytorch_model.bin.0"
    # Rates of 0: what comes out must be what went in.
    zero = ("--lr", "0", "--text_lr", "0", "--init_model", str(pretrained))
    assert toy.run("train", tmp_path / "fine", "--dataset", "msrvtt", *flags, *zero) == 0
    before = torch.load(pretrained, weights_only=True)
    after = torch.load(tmp_path / "fine" / "pytorch_model.bin.0", weights_only=True)
    assert all(torch.equal(before[name], value) for name, value in after.items())
    log = (tmp_path / "fine" / "log.txt").read_text(encoding="utf-8")
    assert "left out" in log and "momentum encoders" in log and "queues" in log


def test_weights_move_and_one_seed_gives_one_run(toy: Toy, tmp_path: Path) -> None:
    flags = ("--dataset", "msrvtt", "--language", "english", "--frame_sample", "random", "--use_temp")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert toy.run("train", tmp_path / name, *flags, "--seed", seed) == 0
    first, same, other = (
        torch.load(tmp_path / name / "pytorch_model.bin.0", weights_only=True) for name in ("a", "b", "c")
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["visual_encoder.visual.proj"], other["visual_encoder.visual.proj"])


@pytest.mark.parametrize("flag", [["--gradient_accumulation_steps", "2"], ["--precision", "bf16"]])
def test_other_ways_to_step(flag: list[str], toy: Toy, tmp_path: Path) -> None:
    assert toy.run("train", tmp_path, "--dataset", "msrvtt", "--language", "english", *flag) == 0
    state = torch.load(tmp_path / "pytorch_model.bin.0", weights_only=True)
    assert all(value.dtype == torch.float32 and bool(torch.isfinite(value).all()) for value in state.values())


def test_dynamic_length_on_chvtt(toy: Toy, tmp_path: Path) -> None:
    flags = (
        "--dataset",
        "chvtt",
        "--language",
        "chinese",
        "--frame_sample_len",
        "dynamic",
        "--max_frames",
        "8",
    )
    assert toy.run("train", tmp_path, *flags, "--use_temp", "--use_frame_fea") == 0
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    losses = [float(line.split(" loss ")[1].split()[0]) for line in log.splitlines() if " loss " in line]
    assert losses and np.isfinite(losses).all()


def test_parameters_only(toy: Toy, tmp_path: Path) -> None:
    from main_task_retrieval import main

    flags = ["--do_params", "--output_dir", str(tmp_path), *toy.flags]
    assert main([*flags, "--dataset", "msrvtt", "--language", "english", "--use_temp"]) == 0
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "image tower" in log and "temporal transformer" in log and "total" in log
    written = json.loads((tmp_path / "parameters.json").read_text(encoding="utf-8"))
    assert (written["frames"], written["words"]) == (4, 32) and written["parts"][-1]["name"] == "total"
    assert main([*flags, "--dataset", "chvtt", "--data_dir", "nowhere"]) == 0  # no annotation is read
    assert json.loads((tmp_path / "parameters.json").read_text(encoding="utf-8"))["words"] == 15
