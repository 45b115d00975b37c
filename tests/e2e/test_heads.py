"""Heads through the whole program: trained, evaluated again from the checkpoint and from saved features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.heads.registry import HEADS
from tests.e2e.conftest import Toy
from tools import evaluate_features

FLAGS = ("--dataset", "msrvtt", "--use_temp", "--language", "english")
OTHERS = [name for name in HEADS if name != "hmmc"]


@pytest.fixture(scope="module")
def runs(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for head in OTHERS:
        folders[head] = tmp_path_factory.mktemp(head)
        features = ("--save_features", str(folders[head] / "features"), "--qb_norm")
        assert toy.run("train", folders[head], *FLAGS, "--head", head, *features) == 0
    return folders


def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return found


@pytest.mark.parametrize("head", OTHERS)
def test_checkpoint_and_saved_features_give_the_figures_of_the_training(
    head: str, runs: dict[str, Path], toy: Toy, tmp_path: Path
) -> None:
    trained = metrics(runs[head])
    log = (runs[head] / "log.txt").read_text(encoding="utf-8")
    assert ("rest, no decay" in log) and "VTM" in log and "FTM" not in log.split("chance")[-1]
    # No flag of the model: its settings, and with them the head, are beside the checkpoint.
    assert toy.run("eval", tmp_path, "--init_model", str(runs[head] / "pytorch_model.bin.0")) == 0
    again = metrics(tmp_path)
    saved = [str(runs[head] / "features"), "--qb_norm", "--json", str(tmp_path / "features.json")]
    assert evaluate_features.main(saved) == 0
    of_features = json.loads((tmp_path / "features.json").read_text(encoding="utf-8"))
    for name in ("t2v/R@1", "t2v/MeanR", "v2t/MeanR", "v2t/mAP"):
        assert again[name] == pytest.approx(trained[name]), name
        assert of_features[name] == pytest.approx(trained[name]), name
    name = "qb_norm_static/t2v/MeanR"
    assert of_features[name] == pytest.approx(trained[name])


@pytest.mark.parametrize(
    ("trained", "given", "expected"),
    [
        (
            "wti",
            ["--head", "xpool"],
            "trained with --head wti; leave the flag out, or add --allow_other",
        ),
        ("mean", ["--head", "hmmc"], "trained with --head mean; leave the flag out"),
        ("wti", ["--wti_layers", "3"], "a head wti of other layers: give the --wti_layers of its training"),
    ],
)
def test_another_head_is_one_line(
    trained: str, given: list[str], expected: str, runs: dict[str, Path], toy: Toy, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    checkpoint = str(runs[trained] / "pytorch_model.bin.0")
    assert toy.run("eval", tmp_path, *FLAGS, "--init_model", checkpoint, *given) == 2
    assert expected in capsys.readouterr().err.strip().splitlines()[-1]


def test_another_head_that_is_meant(runs: dict[str, Path], toy: Toy, tmp_path: Path) -> None:
    flags = ("--init_model", str(runs["wti"] / "pytorch_model.bin.0"), "--head", "mean", "--allow_other_head")
    assert toy.run("eval", tmp_path, *FLAGS, *flags) == 0
    assert "another --head, whose weights are left out" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_without_config_json_the_names_of_the_weights_say_which_head_it_is(
    runs: dict[str, Path], toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "model.bin"
    alone.write_bytes((runs["xpool"] / "pytorch_model.bin.0").read_bytes())
    for head, expected in (
        ("wti", "was trained with --head xpool, not wti: give --head xpool"),
        ("hmmc", "was trained with --head xpool, not hmmc"),
    ):
        flags = (*FLAGS, "--init_model", str(alone), "--head", head)
        assert toy.run("eval", tmp_path / head, *flags) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
    alone.write_bytes((runs["mean"] / "pytorch_model.bin.0").read_bytes())
    assert toy.run("eval", tmp_path / "none", *FLAGS, "--init_model", str(alone), "--head", "wti") == 2
    assert "has no weights of --head wti" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_training_starts_from_a_checkpoint_of_another_head(
    runs: dict[str, Path], toy: Toy, tmp_path: Path
) -> None:
    flags = (*FLAGS, "--init_model", str(runs["mean"] / "pytorch_model.bin.0"), "--head", "wti")
    assert toy.run("train", tmp_path, *flags) == 0
    assert "similarity head: incomplete in the file; starts from new weights" in (
        tmp_path / "log.txt"
    ).read_text(encoding="utf-8")


def test_words_of_both_languages_with_other_losses_and_averaged_weights(toy: Toy, tmp_path: Path) -> None:
    flags = ("--dataset", "vatex", "--language", "bilingual", "--head", "wti", "--loss", "sigmoid")
    more = ("--ema", "0.5", "--grad_cache", "2", "--qb_norm", "--frame_sample_len", "dynamic")
    assert toy.run("train", tmp_path, *flags, *more) == 0
    found = metrics(tmp_path)
    assert {"english/t2v/R@1", "chinese/t2v/R@1", "qb_norm_static/t2v/R@1"} <= found.keys()


def test_pre_training_keeps_hmmcs_head(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.run("pretrain", tmp_path, *FLAGS, "--head", "wti") == 2
    assert "--head wti: the losses of pre-training are those of --head hmmc" in capsys.readouterr().err
