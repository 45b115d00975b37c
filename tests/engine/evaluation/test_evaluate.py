"""Protocols, the similarity file, and the querybank's captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataloaders.datasets.protocols import apply_protocol
from dataloaders.examples import Examples, PackedStrings
from engine.evaluation.evaluate import save_similarity
from engine.evaluation.query_bank import _drawn
from engine.evaluation.similarity import ScoreTiles
from tests.engine.evaluation.naive_ranking import random_features, whole_matrix


def several() -> Examples:
    return Examples(
        video_ids=PackedStrings.from_iterable(["v0", "v1", "v2", "v3"]),
        captions=PackedStrings.from_iterable(["一只猫", "dog one", "cat two", "dog two", "fish"]),
        video_of_caption=np.array([0, 1, 0, 1, 3]),
    )


@pytest.mark.parametrize(
    ("protocol", "captions", "owners"),
    [
        ("one_caption", ["一只猫", "dog one", "fish"], [0, 1, 3]),
        ("paragraph", ["一只猫 cat two", "dog one dog two", "fish"], [0, 1, 3]),
        ("several_captions", ["一只猫", "dog one", "cat two", "dog two", "fish"], [0, 1, 0, 1, 3]),
    ],
)
def test_a_protocol_chooses_the_queries(protocol: str, captions: list[str], owners: list[int]) -> None:
    made = apply_protocol(several(), protocol)
    assert list(made.captions) == captions and made.video_of_caption.tolist() == owners
    assert list(made.video_ids) == ["v0", "v1", "v2", "v3"]


def test_auto_leaves_a_split_as_it_is() -> None:
    made = several()
    assert apply_protocol(made, "auto") is made


def test_the_similarity_file_holds_the_whole_matrix_and_replaces_an_old_one(tmp_path: Path) -> None:
    made = random_features(np.random.default_rng(0), 21, 9, 3)
    for _ in range(2):
        save_similarity(tmp_path / "s.npy", ScoreTiles(made, top_frames=3, logit_scale=100.0, tile=(8, 4)))
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), whole_matrix(made), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npy"]


def test_a_drawn_bank_is_a_seeded_part_in_order() -> None:
    drawn = _drawn(several(), 3, seed=1)
    texts = list(several().captions)
    positions = [texts.index(text) for text in drawn.captions]
    assert positions == sorted(positions) and len(positions) == 3
    assert list(_drawn(several(), 3, seed=1).captions) == list(drawn.captions)
    assert _drawn(several(), 0, seed=1).num_captions == _drawn(several(), 99, seed=1).num_captions == 5
