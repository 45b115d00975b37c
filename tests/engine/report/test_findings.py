"""Worst queries, confusing videos, captions by length and curves, of rankings made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dataloaders.examples import ExamplesBuilder
from engine.evaluation.metrics import recalls
from engine.evaluation.ranks import single_ranks
from engine.report.findings import (
    by_length,
    confusing_videos,
    hub_summary,
    length_of,
    rank_histogram,
    recall_curve,
    worst_captions,
    worst_videos,
)
from tests.engine.report.inputs import CHINESE, examples, measured, scores


def test_the_worst_caption_comes_first_with_what_won() -> None:
    split = examples(6)
    matrix = np.eye(6, dtype=np.float32) * 10
    matrix[3] = [5, 4, 3, -1, 6, 0]  # the own video is last
    matrix[1, 0] = 11  # rank 2
    found = worst_captions(measured(split, matrix)[0].rankings, split)
    assert [(case["video"], case["rank"]) for case in found] == [("v3", 6.0), ("v1", 2.0)]
    assert [won["video"] for won in found[0]["won"]] == ["v4", "v0", "v1"]
    assert [won["score"] for won in found[0]["won"]] == [6.0, 5.0, 4.0]
    assert found[0]["won"][0]["caption"] == split.captions[4]
    assert [won["video"] for won in found[1]["won"]] == ["v0"]  # no video below the own one


def test_one_worst_caption_a_video() -> None:
    split = examples(5, captions=4)
    found = worst_captions(measured(split, scores(split, skill=-9))[0].rankings, split)
    assert len({case["video"] for case in found}) == len(found) == 5


def test_worst_videos_name_the_captions_that_won() -> None:
    split = examples(4, captions=2)
    matrix = np.zeros((8, 4), dtype=np.float32)
    matrix[np.arange(8), split.video_of_caption] = 5
    matrix[2:, 0] = [6, 7, 8, 9, 1, 2]  # video 0: captions of 1 and 2 win
    found = worst_videos(measured(split, matrix)[0].rankings, split)
    assert [(case["video"], case["rank"]) for case in found] == [("v0", 3.0)]
    assert [won["caption"] for won in found[0]["won"]] == [split.captions[i] for i in (5, 4, 3)]
    assert found[0]["caption"] == split.captions[0]


def test_hubs_are_counted_without_right_first_places() -> None:
    split = examples(6)
    matrix = np.eye(6, dtype=np.float32)
    matrix[2:5, 1] = 2  # video 1 takes three captions
    matrix[0, 5] = 2
    rankings = measured(split, matrix)[0].rankings
    found = confusing_videos(rankings, split)
    assert [(hub["video"], hub["times"]) for hub in found] == [("v1", 3), ("v5", 1)]
    assert found[0]["took"] == [split.captions[i] for i in (2, 3, 4)]
    assert hub_summary(rankings, split) == {
        "wrong_first": 4,
        "videos_that_took_one": 2,
        "share_of_the_tenth_that_takes_most": 0.75,
    }


def test_a_perfect_model_has_no_failures() -> None:
    split = examples(4)
    rankings = measured(split, np.eye(4, dtype=np.float32))[0].rankings
    assert worst_captions(rankings, split) == worst_videos(rankings, split) == []
    assert confusing_videos(rankings, split) == []
    assert hub_summary(rankings, split)["wrong_first"] == 0


def test_groups_by_length_hold_every_caption_once() -> None:
    made = ExamplesBuilder()
    for video in range(40):
        made.add(f"v{video}", " ".join(["word"] * (1 + video % 9)))
    split = made.build()
    found = by_length(measured(split, scores(split, skill=1))[0].rankings, split, language="english")
    assert sum(group["captions"] for group in found) == 40
    assert found[0]["from"] == 1 and found[-1]["to"] == 9
    for before, after in zip(found, found[1:], strict=False):
        assert before["to"] < after["from"]


def test_captions_of_one_length_are_one_group() -> None:
    split = examples(5, texts=("same words here",))
    found = by_length(measured(split, scores(split, skill=1))[0].rankings, split, language="english")
    assert [(g["from"], g["to"], g["captions"]) for g in found] == [(4, 4, 5)]


@pytest.mark.parametrize(("language", "length"), [("english", 1), ("chinese", 10)])
def test_chinese_is_counted_in_characters(language: str, length: int) -> None:
    assert length_of(language)[1](CHINESE[0]) == length


def test_curve_and_metrics_agree() -> None:
    ranks = single_ranks(np.array([1, 1, 2.5, 7, 80, 100, np.nan]), np.array([0, 0, 1, 4, 0, 0, 0]))
    curve = dict(recall_curve(ranks, candidates=100))
    for name, value in recalls(ranks, direction="t2v").items():
        k = int(name.split("@")[1])
        if k in curve:
            assert curve[k] == pytest.approx(value, abs=1e-3)
    assert curve[100] == 100.0 and 1 in curve


def test_histogram_bins_double_and_sum_to_everything() -> None:
    found = rank_histogram(single_ranks(np.array([1, 1.5, 2, 3, 4, 5, 100, np.nan])), candidates=100)
    assert [(b["above"], b["to"]) for b in found[:4]] == [(0, 1), (1, 2), (2, 4), (4, 8)]
    assert [round(b["percent"] * 7 / 100) for b in found] == [1, 2, 2, 1, 0, 0, 0, 1]
    assert sum(b["percent"] for b in found) == pytest.approx(100)


def test_one_caption_and_one_video() -> None:
    split = examples(1)
    rankings = measured(split, np.ones((1, 1), dtype=np.float32))[0].rankings
    assert recall_curve(rankings.t2v, candidates=1) == [(1, 100.0)]
    assert rank_histogram(rankings.t2v, candidates=1)[0]["percent"] == 100.0
    assert by_length(rankings, split, language="english")[0]["captions"] == 1
