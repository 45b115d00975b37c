"""`--language bilingual`, through the whole programs: one model, the figures of both languages."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import SMALL_CLIP, Toy
from tests.engine.report.inputs import BLANK

FLAGS = ("--dataset", "vatex", "--use_temp", "--use_frame_fea", "--temporal_layers", "1")
BOTH = (*FLAGS, "--language", "bilingual")
Read = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of both languages, with everything that an evaluation can write."""
    out = tmp_path_factory.mktemp("bilingual")
    wanted = ("--report", "--bootstrap", "50", "--dsl", "--qb_norm", "--save_similarity")
    with pytest.MonkeyPatch.context() as patch:  # to draw takes most of the time
        patch.setattr("engine.report.report.png", lambda draw, *, theme: BLANK)
        assert toy.run("train", out, *BOTH, *wanted, "--save_features", str(out / "features")) == 0
    return out


@pytest.fixture(scope="module")
def english(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("english")
    assert toy.run("train", out, *FLAGS, "--language", "english") == 0
    return out


def checkpoint(out: Path) -> str:
    return str(out / "pytorch_model.bin.0")


def test_one_evaluation_gives_the_figures_of_both_languages(run: Path, results: Read) -> None:
    (found,) = results(run)
    assert found["language"] == "bilingual" and found["captions"] == 48 and found["videos"] == 6
    for name in ("t2v/R@1", "v2t/R@5", "t2v/MeanR", "dsl/t2v/R@1", "qb_norm_static/t2v/R@1", "RSum"):
        pair = [found[f"{language}/{name}"] for language in ("english", "chinese")]
        assert found[name] == pytest.approx(sum(pair) / 2), name
    assert set(found["intervals"]) >= {"english/t2v/R@1", "chinese/v2t/R@1"}
    log = (run / "log.txt").read_text(encoding="utf-8")
    for line in (
        "vatex english text to video",
        "vatex chinese video to text",
        "vatex mean of both languages",
    ):
        assert line in log


def test_the_report_has_the_figures_of_both_and_a_report_of_each(run: Path, results: Read) -> None:
    (found,) = results(run)
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert {name: report[name] for name in found} == found
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert "English" in page and "mean of both" in page
    for language in ("english", "chinese"):
        assert f'href="{language}/report.html"' in page
        part = json.loads((run / "report" / language / "report.json").read_text(encoding="utf-8"))
        assert part["language"] == language and part["captions"] == 24
        for name in ("t2v/R@1", "v2t/MeanR", "dsl/v2t/R@1", "RSum"):
            assert part[name] == found[f"{language}/{name}"], name
        assert part["intervals"]["t2v/R@1"] == found["intervals"][f"{language}/t2v/R@1"]
        assert (run / "report" / language / "queries.jsonl").is_file()
        assert (run / "features" / language / "features.json").is_file()
        assert (run / f"similarity.{language}.npy").is_file()
    chinese = (run / "report" / "chinese" / "report.html").read_text(encoding="utf-8")
    assert 'lang="zh-CN"' in chinese


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_the_checkpoint_is_a_model_of_each_language(
    language: str, toy: Toy, run: Path, results: Read, tmp_path: Path
) -> None:
    flags = (*FLAGS, "--language", language, "--init_model", checkpoint(run))
    assert toy.run("eval", tmp_path, *flags) == 0
    (found,) = results(tmp_path)
    (whole,) = results(run)
    for name in ("t2v/MeanR", "t2v/mAP", "v2t/R@1"):
        assert found[name] == pytest.approx(whole[f"{language}/{name}"], abs=1e-9), name
    assert "is used, although" not in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_checkpoint_of_one_language_starts_a_bilingual_training(
    toy: Toy, english: Path, tmp_path: Path
) -> None:
    flags = (*BOTH, "--init_model", checkpoint(english), "--lr", "0", "--text_lr", "0")
    assert toy.run("train", tmp_path, *flags) == 0
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "has no Chinese text encoder; it starts from --pretrained_text" in log
    before, after = (
        torch.load(checkpoint(out), weights_only=True, map_location="cpu") for out in (english, tmp_path)
    )
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name.split(".")[1] for name in set(after) - set(before)} == {"chinese_encoder", "text_proj"}


def test_a_checkpoint_of_one_language_is_no_bilingual_model(
    toy: Toy, english: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, only in (("bilingual", " only"), ("chinese", "")):
        flags = (*FLAGS, "--language", language, "--init_model", checkpoint(english))
        assert toy.run("eval", tmp_path / language, *flags) == 2
        hint = f"It holds an English text encoder{only}: give --language english."
        assert hint in capsys.readouterr().err


def test_a_resumed_training_equals_an_uninterrupted_one(toy: Toy, tmp_path: Path) -> None:
    """Both languages are mixed in the same way after the restart."""
    flags = (*BOTH, "--save_steps", "3", "--keep", "99", "--batch_size", "10")
    assert toy.run("train", tmp_path / "whole", *flags) == 0
    state = str(tmp_path / "whole" / "training_state.3.pt")
    assert toy.run("train", tmp_path / "resumed", *flags, "--resume", state) == 0
    whole, resumed = (
        torch.load(checkpoint(tmp_path / name), weights_only=True) for name in ("whole", "resumed")
    )
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_text_tower_that_knows_both_languages_reads_all_texts(
    toy: Toy, results: Read, tmp_path: Path
) -> None:
    clip, tokenizer = tmp_path / "multilingual.json", tmp_path / "tokenizer"
    clip.write_text(json.dumps(SMALL_CLIP | {"languages": ["english", "chinese"]}), encoding="utf-8")
    write_tokenizer_of_both(tokenizer, toy)
    model = ("--clip_model", str(clip), "--tokenizer", str(tokenizer))
    flags = (*BOTH, *model)
    assert toy.run("train", tmp_path / "run", *flags) == 0
    (found,) = results(tmp_path / "run")
    state = torch.load(checkpoint(tmp_path / "run"), weights_only=True)
    assert not any("chinese_encoder" in name for name in state)
    alone = (*FLAGS, "--language", "chinese", "--init_model", checkpoint(tmp_path / "run"))
    assert toy.run("eval", tmp_path / "alone", *alone, *model) == 0
    (chinese,) = results(tmp_path / "alone")
    assert chinese["t2v/mAP"] == pytest.approx(found["chinese/t2v/mAP"], abs=1e-9)
    assert toy.run("train", tmp_path / "more", *flags, "--init_model", checkpoint(tmp_path / "run")) == 0
    log = (tmp_path / "more" / "log.txt").read_text(encoding="utf-8")
    assert "starts from --pretrained_text" not in log and "was not trained with" not in log


def write_tokenizer_of_both(folder: Path, toy: Toy) -> None:
    """The toy BERT's tokenizer with the English words of the toy captions."""
    shutil.copytree(toy.data / "toy-bert", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    captions = json.loads((toy.data / "vatex" / "vatex_data.json").read_text(encoding="utf-8"))
    english = " ".join(text for entry in captions.values() for text in entry["enCap"])
    known = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    words = sorted(set(re.findall(r"\w+|[^\w\s]", english.lower())) - set(known))
    (folder / "vocab.txt").write_text("\n".join([*known, *words]) + "\n", encoding="utf-8")


def test_an_english_text_tower_for_all_texts_is_refused(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy.run("eval", tmp_path, *BOTH, "--text_tower", "clip") == 2
    error = capsys.readouterr().err
    assert "% of the tokens of 24 inspected Chinese texts are unknown" in error
    assert "was not trained with Chinese texts" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_pre_training_and_zero_shot(toy: Toy, results: Read, tmp_path: Path) -> None:
    flags = ("--use_frame_fea", "--language", "bilingual", "--dataset", "chvtt", "--weight_MLM", "0")
    assert toy.run("pretrain", tmp_path, *flags, "--grad_cache", "2") == 0
    (found,) = results(tmp_path)
    assert found["dataset"] == "vatex" and "chinese/t2v/R@1" in found


@pytest.mark.parametrize(
    ("job", "flags", "message"),
    [
        ("train", ("--dataset", "msrvtt"), "--language bilingual: --dataset msrvtt has english texts only"),
        (
            "eval",
            ("--dataset", "msrvtt"),
            "has english texts only; a bilingual model can be evaluated there with --language english",
        ),
        ("pretrain", ("--dataset", "vatex"), "--language bilingual has two; give --weight_MLM 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    job: str,
    flags: tuple[str, ...],
    message: str,
    toy: Toy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert toy.run(job, tmp_path, "--language", "bilingual", *flags) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
