"""What an evaluation leaves, through the whole program: report, features, similarity, post-processing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import Toy
from tools import evaluate_features

FLAGS = ("--dataset", "vatex", "--use_temp", "--use_frame_fea", "--language", "chinese")


@pytest.fixture(scope="module")
def run(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    wanted = ("--report", "--bootstrap", "50", "--dsl", "--qb_norm", "--save_similarity")
    features = ("--save_features", str(out / "features"))
    assert toy.run("train", out, *FLAGS, *wanted, *features) == 0
    return out


def result(out: Path) -> dict[str, Any]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1, "the test list is evaluated once"
    found: dict[str, Any] = json.loads(lines[0])
    return found


def test_the_result_holds_plain_and_post_processed_figures(run: Path) -> None:
    found = result(run)
    assert found["protocol"]["name"] == "several_captions" and found["selected_on"] == "last"
    for name in ("t2v/R@50", "v2t/mAP", "RSum", "v2t_any/R@1", "dsl/v2t/R@1", "qb_norm_static/t2v/R@1"):
        assert name in found, name
    assert set(found["post_processing"]) == {"dsl", "qb_norm_static", "qb_norm_dynamic"}
    low, high = found["intervals"]["t2v/R@5"]
    assert low <= found["t2v/R@5"] <= high


def test_the_report_is_one_page_without_a_network(run: Path) -> None:
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert len(page) < 10_000_000 and "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="data:image/' in page and "<script src" not in page and "<link" not in page
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    found = result(run)
    assert {name: report[name] for name in found} == found
    assert report["settings"]["language"] == "chinese" and report["missing"] == []
    assert len(found["checkpoint_sha256"]) == 64


def test_saved_features_give_the_same_figures(run: Path, tmp_path: Path) -> None:
    assert evaluate_features.main([str(run / "features"), "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    found = result(run)
    for name in ("t2v/R@1", "t2v/MeanR", "v2t/R@1", "v2t/mAP", "RSum"):
        assert again[name] == pytest.approx(found[name]), name
    similarity = np.load(run / "similarity.npy")
    assert similarity.shape == (found["captions"], found["videos"])
    flags = ["--similarity", str(run / "similarity.npy"), "--dsl", "--bootstrap", "50"]
    assert evaluate_features.main([*flags, "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    for name, value in found.items():
        if name.startswith(("t2v/", "v2t/", "v2t_any/", "dsl/")):
            assert again[name] == pytest.approx(value), name


def test_all_captions_of_a_video_as_one_query(toy: Toy, run: Path, tmp_path: Path) -> None:
    # No flag of the model: its settings are beside the checkpoint.
    model = ("--init_model", str(run / "pytorch_model.bin.0"), "--protocol", "paragraph")
    assert toy.run("eval", tmp_path, *model) == 0
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "--use_temp --use_frame_fea --dataset vatex" in log and "WARNING" not in log
    found = result(tmp_path)
    assert found["protocol"]["name"] == "paragraph" and found["captions"] == found["videos"]


def test_more_frames_and_words_than_the_model_was_made_for(toy: Toy, tmp_path: Path) -> None:
    flags = ("--dataset", "activitynet", "--language", "english", "--use_temp", "--batch_size", "3")
    longer = ("--max_frames", "52", "--max_words", "90")
    assert toy.run("train", tmp_path / "run", *flags, *longer) == 0
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "--max_words 90: the text encoder was trained with 77 tokens; the first 20 positions stay" in log
    assert "--max_frames 52: the temporal transformer has as many positions, in place of 48" in log
    assert "train on activitynet english: 6 videos, 6 examples (paragraphs)" in log
    assert "5 queries (paragraph)" in log and "papers take 64 frames of a clip of activitynet" in log
    assert result(tmp_path / "run")["protocol"]["name"] == "paragraph"
    # Its settings come with the checkpoint; with fewer frames the first positions are used.
    checkpoint = str(tmp_path / "run" / "pytorch_model.bin.0")
    assert toy.run("eval", tmp_path / "eval", "--init_model", checkpoint, "--max_frames", "4") == 0
    log = (tmp_path / "eval" / "log.txt").read_text(encoding="utf-8")
    assert "trained with positions of 52 frames; the first 48 are used" in log
    assert "--max_words 90" in log and "several_captions" not in log
