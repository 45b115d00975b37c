"""Checks of features, whose messages name the bad captions and videos; features on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from common.errors import UserError
from engine.evaluation.feature_files import (
    FeatureSet,
    file_digest,
    load_features,
    save_features,
)
from engine.evaluation.features import Features, check_features
from tests.engine.evaluation.naive_ranking import random_features

OWNERS = np.array([0, 0, 1, 2, 2])
CAPTIONS = ["a cat", "the cat", "一只狗", "a bird", "birds"]
IDS = ["v0", "v1", "v2"]


def small_features() -> Features:
    return random_features(np.random.default_rng(0), 5, 3, frames=2)


def check(features: Features, owners: np.ndarray = OWNERS) -> list[str]:
    return check_features(features, owners, captions=CAPTIONS, video_ids=IDS)


def test_good_features_pass_without_a_remark() -> None:
    assert check(small_features()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_named(value: float) -> None:
    for part, row, name in (("text", 2, "一只狗"), ("video", 1, "v1"), ("frames", 2, "v2")):
        bad = small_features()
        getattr(bad, part)[row, ..., 0] = value
        with pytest.raises(UserError, match=f"not finite: 1 .*{name}"):
            check(bad)


def test_at_most_ten_are_named_and_all_are_counted() -> None:
    bad = Features(torch.full((12, 4), torch.nan), torch.ones(1, 4))
    with pytest.raises(UserError, match=r"not finite: 12 \(0, 1, .*9, \.\.\.\)"):
        check_features(bad, np.zeros(12, int))


def test_vectors_too_long_or_too_short_to_normalise_are_named() -> None:
    """The square of 1e30 is infinite in float32, and a vector shorter than 1e-6 is not normalised."""
    long, short = small_features(), small_features()
    long.video[1] = 1e30
    with pytest.raises(UserError, match="features of videos are not finite: 1 .*v1"):
        check(long)
    short.text[2] = 1e-9
    assert check(short) == ["zero vectors among the features of captions: 1 ('一只狗')"]


def test_zero_vectors_give_a_remark_but_padding_does_not() -> None:
    features = small_features()
    features.video[1] = 0
    features.frames[0, 1] = 0  # type: ignore[index]
    real = torch.tensor([[True, False], [True, True], [True, True]])
    remarks = check(replace(features, frame_mask=real))
    assert remarks == ["zero vectors among the features of videos: 1 ('v1')"]
    assert any("frames of videos: 1 ('v0')" in remark for remark in check(replace(features, frame_mask=None)))


def test_a_caption_without_a_video_and_a_video_without_a_caption() -> None:
    with pytest.raises(UserError, match="captions without a video: 1 .*birds"):
        check(small_features(), np.array([0, 0, 1, 2, 3]))
    assert "v2" in check(small_features(), np.array([0, 0, 1, 1, 1]))[0]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to rank: 0 captions, 3 videos"):
        check_features(Features(torch.empty(0, 4), torch.ones(3, 4)), np.empty(0, int))


def feature_set(**more: object) -> FeatureSet:
    about = {"dataset": "vatex", "split": "test", "checkpoint_sha256": "12", "settings": {"top_frames": 3}}
    return FeatureSet(small_features(), OWNERS, IDS, CAPTIONS, about=about, **more)  # type: ignore[arg-type]


def test_features_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    before = feature_set(bank={"text": torch.randn(7, 16)})
    save_features(tmp_path / "new" / "folder", before)
    after = load_features(tmp_path / "new" / "folder", dataset="vatex", split="test", checkpoint_sha256=None)
    assert torch.equal(after.features.text, before.features.text)
    assert torch.equal(after.features.frames, before.features.frames)  # type: ignore[arg-type]
    assert after.bank is not None and before.bank is not None
    assert after.bank.keys() == {"text"} and torch.equal(after.bank["text"], before.bank["text"])
    np.testing.assert_array_equal(after.video_of_caption, OWNERS)
    assert list(after.captions) == CAPTIONS and list(after.video_ids) == IDS and after.about == before.about
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        "features.json",
        "features.safetensors",
    }


@pytest.mark.parametrize("key", ["dataset", "split", "checkpoint_sha256"])
def test_features_of_another_model_or_split_are_refused(key: str, tmp_path: Path) -> None:
    save_features(tmp_path, feature_set())
    with pytest.raises(UserError, match=f"features of {key} .*, not other"):
        load_features(tmp_path, **{key: "other"})


def test_files_that_are_absent_foreign_or_from_two_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no features there"):
        load_features(tmp_path)
    save_features(tmp_path, feature_set())
    names = json.loads((tmp_path / "features.json").read_text(encoding="utf-8"))
    (tmp_path / "features.json").write_text(json.dumps({**names, "split": "val"}), encoding="utf-8")
    with pytest.raises(UserError, match="are from different runs"):
        load_features(tmp_path)
    (tmp_path / "features.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="not of format 1"):
        load_features(tmp_path)
    (tmp_path / "features.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not features"):
        load_features(tmp_path)


def test_arrays_that_do_not_match_the_names_are_refused(tmp_path: Path) -> None:
    save_features(tmp_path, feature_set())
    with safetensors.safe_open(tmp_path / "features.safetensors", framework="pt") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fewer_videos = {**arrays, "video": arrays["video"][1:], "frames": arrays["frames"][1:]}
    no_text = {name: array for name, array in arrays.items() if name != "text"}
    whole_numbers = {**arrays, "text": arrays["text"].long()}
    for bad in (fewer_videos, no_text, whole_numbers):
        safetensors.torch.save_file(bad, tmp_path / "features.safetensors", metadata=metadata)
        with pytest.raises(UserError, match="sizes of arrays and names do not match, or types are wrong"):
            load_features(tmp_path)


def test_the_digest_of_a_file_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert file_digest(tmp_path / "file").startswith("e3b0c44298fc1c14")


def test_arrays_of_different_types_come_back_in_the_most_precise_one(tmp_path: Path) -> None:
    save_features(tmp_path, feature_set(bank={"text": torch.randn(7, 16)}))
    with safetensors.safe_open(tmp_path / "features.safetensors", framework="pt") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays |= {"text": arrays["text"].half(), "video": arrays["video"].double()}
    safetensors.torch.save_file(arrays, tmp_path / "features.safetensors", metadata=metadata)
    found = load_features(tmp_path)
    tensors = (found.features.text, found.features.video, found.features.frames, (found.bank or {})["text"])
    assert {tensor.dtype for tensor in tensors if tensor is not None} == {torch.float64}
