"""Checks that name what is wrong with features, and features on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.evaluation.feature_files import (
    FeatureSet,
    file_digest,
    load_features,
    save_features,
    weights_digest,
)
from engine.evaluation.features import Features, check_features
from tests.engine.evaluation.naive_ranking import random_features

OWNERS = np.array([0, 0, 1, 2, 2])
CAPTIONS = ["a cat", "the cat", "一只狗", "a bird", "birds"]
IDS = ["v0", "v1", "v2"]


def made(frames: int | None = 2) -> Features:
    return random_features(np.random.default_rng(0), 5, 3, frames)


def check(features: Features, owners: np.ndarray = OWNERS) -> list[str]:
    return check_features(features, owners, captions=CAPTIONS, video_ids=IDS)


def test_sound_features_pass_without_a_remark() -> None:
    assert check(made()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_named(value: float) -> None:
    for part, row, name in (("text", 2, "一只狗"), ("video", 1, "v1"), ("frames", 2, "v2")):
        bad = made()
        getattr(bad, part)[row, ..., 0] = value
        with pytest.raises(ValueError, match=f"not finite: 1 .*{name}"):
            check(bad)


def test_at_most_ten_are_named_and_all_are_counted() -> None:
    bad = Features(torch.full((12, 4), torch.nan), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"not finite: 12 \(0, 1, .*9, \.\.\.\)"):
        check_features(bad, np.zeros(12, int))


def test_zero_vectors_are_remarked_on_but_padding_is_not() -> None:
    odd = made()
    odd.video[1] = 0
    odd.frames[0, 1] = 0  # type: ignore[index]
    real = torch.tensor([[True, False], [True, True], [True, True]])
    remarks = check(replace(odd, frame_mask=real))
    assert remarks == ["zero vectors among the features of videos: 1 ('v1')"]
    assert any("frames of videos: 1 ('v0')" in remark for remark in check(replace(odd, frame_mask=None)))


def test_a_caption_without_a_video_and_a_video_without_a_caption() -> None:
    with pytest.raises(ValueError, match="captions without a video: 1 .*birds"):
        check(made(), np.array([0, 0, 1, 2, 3]))
    assert "v2" in check(made(), np.array([0, 0, 1, 1, 1]))[0]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to rank: 0 captions, 3 videos"):
        check_features(Features(torch.empty(0, 4), torch.ones(3, 4)), np.empty(0, int))


def feature_set(**more: object) -> FeatureSet:
    about = {"dataset": "vatex", "split": "test", "checkpoint_sha256": "12", "settings": {"top_frames": 3}}
    return FeatureSet(made(), OWNERS, IDS, CAPTIONS, about=about, **more)  # type: ignore[arg-type]


def test_features_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    before = feature_set(bank=torch.randn(7, 16))
    save_features(tmp_path / "new" / "folder", before)
    after = load_features(tmp_path / "new" / "folder", dataset="vatex", split="test", checkpoint_sha256=None)
    assert torch.equal(after.features.text, before.features.text)
    assert torch.equal(after.features.frames, before.features.frames)  # type: ignore[arg-type]
    assert torch.equal(after.bank, before.bank)  # type: ignore[arg-type]
    np.testing.assert_array_equal(after.video_of_caption, OWNERS)
    assert list(after.captions) == CAPTIONS and list(after.video_ids) == IDS and after.about == before.about
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        "features.json",
        "features.safetensors",
    }


@pytest.mark.parametrize("key", ["dataset", "split", "checkpoint_sha256"])
def test_features_of_another_model_or_split_are_refused(key: str, tmp_path: Path) -> None:
    save_features(tmp_path, feature_set())
    with pytest.raises(ValueError, match=f"features of {key} .*, not other"):
        load_features(tmp_path, **{key: "other"})


def test_files_that_are_absent_foreign_or_of_two_writings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no features there"):
        load_features(tmp_path)
    save_features(tmp_path, feature_set())
    names = json.loads((tmp_path / "features.json").read_text(encoding="utf-8"))
    (tmp_path / "features.json").write_text(json.dumps({**names, "split": "val"}), encoding="utf-8")
    with pytest.raises(ValueError, match="not of one writing"):
        load_features(tmp_path)
    (tmp_path / "features.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="not of format 1"):
        load_features(tmp_path)
    (tmp_path / "features.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not features"):
        load_features(tmp_path)


def test_digests_tell_models_and_files_apart(tmp_path: Path) -> None:
    state = {"b": torch.arange(3.0), "a": torch.zeros(2, dtype=torch.float16)}
    assert weights_digest(state) == weights_digest(dict(sorted(state.items())))
    assert weights_digest(state) != weights_digest({**state, "b": torch.arange(3.0) + 1})
    (tmp_path / "file").write_bytes(b"")
    assert file_digest(tmp_path / "file").startswith("e3b0c44298fc1c14")
