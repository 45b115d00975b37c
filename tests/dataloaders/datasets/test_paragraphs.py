"""DiDeMo and ActivityNet Captions: all texts of a video, and what is wrong with moments."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from dataloaders.datasets import activitynet, didemo
from dataloaders.datasets.eval_protocol import apply_protocol, training_texts
from dataloaders.datasets.registry import read_test_ids
from dataloaders.datasets.spec import SplitFiles
from tests.dataloaders.toy import write_json


def moment(
    video: str, text: str, *, times: Any = ((0, 1),), number: int = 1, pieces: int = 6
) -> dict[str, Any]:
    pairs = [list(time) for time in times]
    about = {"video": video, "description": text, "annotation_id": number}
    return {**about, "times": pairs, "num_segments": pieces}


def entry(*texts: str, duration: Any = 20.0, times: Any = None) -> dict[str, Any]:
    spans = [[0, 10]] * len(texts) if times is None else times
    return {"duration": duration, "timestamps": spans, "sentences": list(texts)}


def test_moments_of_a_video_with_and_without_extension_are_one_paragraph(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "a.json",
        [moment("1@N1_2_a.mov", "a cat"), moment("3@N1_4_b.avi", "rain"), moment("1@N1_2_a.", "it runs")],
    )
    examples = didemo.read_split(path)
    assert list(examples.video_ids) == ["1@N1_2_a", "3@N1_4_b"]
    joined = training_texts(examples, "paragraph")
    assert list(joined.captions) == ["a cat it runs", "rain"]
    assert list(joined.captions) == list(apply_protocol(examples, "paragraph").captions)
    assert training_texts(examples, "several_captions") is examples
    (tmp_path / "list.txt").write_text("3@N1_4_b.avi\n", "utf-8")
    assert list(didemo.read_split(path, tmp_path / "list.txt").captions) == ["rain"]
    files = SplitFiles(path, tmp_path / "list.txt", tmp_path)
    assert read_test_ids("didemo", files, language="english") == ["3@N1_4_b"]
    (tmp_path / "list.txt").write_text("none.avi\n", "utf-8")
    with pytest.raises(UserError, match="has no captions for 1 of the 1 videos .*: none"):
        didemo.read_split(path, tmp_path / "list.txt")


def test_moments_outside_of_a_video_and_repeated_ones_are_found(tmp_path: Path) -> None:
    moments = [
        moment("a.mov", "fine", times=((0, 5), (2, 2))),
        moment("b.mov", "late", times=((5, 6),), number=2),
        moment("c.mov", "short", times=((5, 5),), pieces=5, number=3),
        moment("d.mov", "reversed", times=((2, 1),), number=3),
        {"video": "e.mov", "description": "no times"},
    ]
    path = write_json(tmp_path / "a.json", moments)
    (outside,) = didemo.find_faults(SplitFiles(path, None, tmp_path)).values()
    assert [text.split(":")[0] for text in outside] == ["b", "c", "d", "e"]
    repeats = didemo.SPEC.splits["test"].repeats
    assert repeats is not None and repeats.find(path) == ["3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "must be a list of {video, description, times}"),
        ([], "must be a list of"),
        (
            [moment("a.mov", "x"), {"video": "b.mov"}],
            "entry 1 must hold the strings 'video' and 'description'",
        ),
        ([[]], "entry 0 must hold"),
    ],
)
def test_other_forms_of_didemo_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        didemo.read_split(write_json(tmp_path / "a.json", content))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_sentences_of_activitynet_with_durations(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "a.json", {"v_a": entry("A man.", " He runs."), "v_b": entry("Rain.", duration=9)}
    )
    examples = activitynet.read_split(path)
    assert list(examples.video_ids) == ["v_a", "v_b"]
    assert list(training_texts(examples, "paragraph").captions) == ["A man.  He runs.", "Rain."]
    np.testing.assert_array_equal(examples.durations, [20, 9])
    for listed in ("b", "v_b"):
        (tmp_path / "list.txt").write_text(f"{listed}\n", "utf-8")
        assert list(activitynet.read_split(path, tmp_path / "list.txt").video_ids) == ["v_b"]


def test_moments_that_do_not_fit_are_found(tmp_path: Path) -> None:
    content = {
        "v_a": entry("x", times=[[0, 20.4]]),
        "v_b": entry("x", times=[[0, 21]]),
        "v_c": entry("x", times=[[9, 3]]),
        "v_d": entry("x", "y", times=[[0, 1]]),
        "v_e": entry("x", times=[7]),
    }
    faults = activitynet.find_faults(SplitFiles(write_json(tmp_path / "a.json", content), None, tmp_path))
    outside, uneven = faults.values()
    assert [text.split(":")[0] for text in outside] == ["v_b", "v_c", "v_e"] and uneven == ["v_d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "is empty"),
        ([], "must be a JSON object"),
        ({"v_a": {"duration": 1}}, "video v_a has no list 'sentences' of strings"),
        ({"v_a": entry()}, "video v_a has no sentence"),
        ({"v_a": entry(" ", "")}, "video v_a has no sentence"),
        ({"v_a": entry("x", duration="long")}, "video v_a: 'duration' must be seconds, it is 'long'"),
    ],
)
def test_other_forms_of_activitynet_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        activitynet.read_split(write_json(tmp_path / "a.json", content))
    assert message in str(error.value) and "\n" not in str(error.value)
