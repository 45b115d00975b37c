"""Two reports compared: what moved, and what differs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataloaders.examples import Examples
from engine.report.report import write_report
from tests.engine.report.inputs import blank_plots, examples, measured, result_of, scores
from tools.compare_reports import compare, main, pair_reports, sentence

__all__ = ["blank_plots"]
pytestmark = pytest.mark.usefixtures("blank_plots")


def write(folder: Path, split: Examples, matrix: np.ndarray, **about: object) -> Path:
    found, tiles = measured(split, matrix)
    result = result_of(split, found, **about)
    write_report(folder / "report", result=result, rankings=found.rankings, examples=split, tiles=tiles)
    return folder


@pytest.fixture
def split() -> Examples:
    return examples(60, captions=3)


def test_a_better_model_is_said_to_be_better(
    split: Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a", split, scores(split, skill=3.0))
    b = write(tmp_path / "b", split, scores(split, skill=1.0, seed=1))
    assert main([str(a), str(b / "report"), "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    difference = found["differences"]["t2v/R@1"]
    assert difference["value"] == pytest.approx(difference["a"] - difference["b"]) and difference["low"] > 0
    assert difference["p"] < 0.01
    shown = capsys.readouterr().out
    assert f"A's t2v/R@1 is {difference['value']:.1f} points higher (95% +" in shown
    assert "A is better" in shown and "rank in A <- B" in shown
    assert found["moved"]["better"] > found["moved"]["worse"]
    assert sum(found["moved"][key] for key in ("better", "worse", "same")) == 180


def test_the_other_way_round_is_the_negative(split: Examples, tmp_path: Path) -> None:
    a = write(tmp_path / "a", split, scores(split, skill=2.0))
    b = write(tmp_path / "b", split, scores(split, skill=1.5, seed=1))
    one, other = (compare(pair_reports(*pair))["differences"] for pair in ((a, b), (b, a)))
    for name, difference in one.items():
        assert difference["value"] == pytest.approx(-other[name]["value"])
        assert difference["low"] == pytest.approx(-other[name]["high"])
        assert difference["p"] == other[name]["p"]


def test_a_report_does_not_differ_from_itself(
    split: Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a", split, scores(split, skill=1.0))
    assert main([str(a), str(a), "--json", "-"]) == 0
    said = capsys.readouterr()
    shown = said.err
    assert json.loads(said.out)["captions"] == 180  # nothing but JSON
    assert "No difference shown in t2v/R@1" in shown and "180 the same" in shown and "A is" not in shown


def test_the_largest_moves_come_first(split: Examples, tmp_path: Path) -> None:
    matrix = np.zeros((180, 60), dtype=np.float32)
    matrix[np.arange(180), split.video_of_caption] = 1
    worse, slightly = matrix.copy(), 7
    worse[50] = 2
    worse[50, split.video_of_caption[50]] = 0  # from 1 to 60
    worse[slightly, (split.video_of_caption[slightly] + 1) % 60] = 2  # from 1 to 2
    pair = pair_reports(write(tmp_path / "a", split, worse), write(tmp_path / "b", split, matrix))
    found = compare(pair, resamples=200)
    assert [(m["caption"], m["a"], m["b"]) for m in found["worse_in_a"]] == [
        (split.captions[50], 60.0, 1.0),
        (split.captions[slightly], 2.0, 1.0),
    ]
    assert found["better_in_a"] == [] and found["moved"]["lost_first"] == 2


def test_the_order_of_a_split_does_not_matter(split: Examples, tmp_path: Path) -> None:
    matrix = scores(split, skill=1.0)
    order = np.random.default_rng(0).permutation(180)
    shuffled = Examples(split.video_ids, split.captions.take(order), split.video_of_caption[order])
    pair = pair_reports(write(tmp_path / "a", split, matrix), write(tmp_path / "b", shuffled, matrix[order]))
    assert compare(pair, resamples=100)["moved"]["same"] == 180


def refused(a: Path, b: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main([str(a), str(b), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("compare_reports.py: error: ") and error.count("\n") == 1
    return error


def test_other_splits_are_refused(
    split: Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = scores(split, skill=1.0)
    a = write(tmp_path / "a", split, matrix)
    b = write(tmp_path / "b", split, matrix, dataset="other")
    assert "dataset is toy in" in refused(a, b, capsys)
    named = [write(tmp_path / d, split, matrix, dataset=d, list="sha256:1") for d in ("d.csv", "e.csv")]
    assert main(list(map(str, named))) == 0  # the same list out of two tables
    capsys.readouterr()
    fewer = split.keep_videos(np.arange(60) < 58)
    c = write(tmp_path / "c", fewer, scores(fewer, skill=1.0))
    said = refused(a, c, capsys)
    assert "8 only in A" in said and "--intersect" in said and "only in B" not in said


def test_intersect_says_that_the_candidates_differ(
    split: Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a", split, scores(split, skill=1.0))
    fewer = split.keep_videos(np.arange(60) < 58)
    c = write(tmp_path / "c", fewer, scores(fewer, skill=1.0))
    assert main([str(a), str(c), "--intersect"]) == 0
    shown = capsys.readouterr().out
    assert "among 60 candidates and B among 58" in shown and "174 captions, 58 videos" in shown
    other = examples(3, texts=("quite other words",))
    d = write(tmp_path / "d", other, scores(other, skill=1.0))
    assert "no query is in both" in refused(c, d, capsys, "--intersect")


def test_bad_folders_are_named(split: Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", split, scores(split, skill=1.0))
    assert "no report there" in refused(a, tmp_path / "nothing", capsys)
    b = write(tmp_path / "b", split, scores(split, skill=1.0))
    (b / "report" / "report.json").write_text("{", encoding="utf-8")
    assert "report.json, line 1: is not JSON" in refused(a, b, capsys)
    assert "--seed -1: must be 0 or more" in refused(a, a, capsys, "--seed", "-1")
    assert "--resamples 99: give 100 to" in refused(a, a, capsys, "--resamples", "99")
    assert "is a folder" in refused(a, a, capsys, "--json", str(tmp_path))


def test_a_lower_mean_rank_is_better() -> None:
    difference = {"value": -2.0, "low": -3.0, "high": -1.0, "p": 0.01, "p_shown": "0.01"}
    assert "lower" in sentence("t2v/MeanR", difference) and "A is better" in sentence("t2v/MeanR", difference)
    assert "A is worse" in sentence("t2v/R@1", difference)


def test_few_videos_are_compared_exactly_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = examples(10)
    matrix = np.eye(10, dtype=np.float32)
    lost = matrix.copy()
    lost[np.arange(7), np.arange(7)] = -1  # the last of 10
    a, b = write(tmp_path / "a", few, matrix), write(tmp_path / "b", few, lost)
    assert main([str(a), str(b), "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["exact"] and found["differences"]["t2v/R@1"]["p"] == pytest.approx(2 / 2**7)
    shown = capsys.readouterr().out
    assert "note: only 10 videos: nothing but a large difference" in shown and "all permutations" in shown
    assert "p = 0.02" in shown


def test_five_videos_have_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = examples(5)
    matrix = np.eye(5, dtype=np.float32)
    a, b = write(tmp_path / "a", few, matrix), write(tmp_path / "b", few, -matrix)
    assert main([str(a), str(b)]) == 0
    assert "No difference shown in t2v/R@1: A - B = +100.0 points (no interval: too few" in (
        capsys.readouterr().out
    )


def test_reports_count_tied_ranks_as_the_run_does(tmp_path: Path) -> None:
    """A constant matrix: R@5 of 9 videos is 5 of 9 in the run, in its report and here."""
    split = examples(9)
    a = write(tmp_path / "a", split, np.ones((9, 9), dtype=np.float32))
    b = write(tmp_path / "b", split, np.eye(9, dtype=np.float32))
    difference = compare(pair_reports(a, b))["differences"]["t2v/R@5"]
    assert difference["a"] == pytest.approx(500 / 9) and difference["b"] == 100.0
    report = json.loads((a / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["t2v/R@5"] == pytest.approx(500 / 9)
    assert dict(report["findings"]["recall_curve"]["t2v"])[5] == pytest.approx(500 / 9, abs=1e-3)
