"""The similarity file, and the querybank's captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.evaluation.evaluate import save_similarity
from engine.evaluation.query_bank import _drawn
from engine.evaluation.similarity import ScoreTiles
from tests.dataloaders.toy import toy_examples
from tests.engine.evaluation.naive_ranking import random_features, whole_matrix


def test_the_similarity_file_holds_the_whole_matrix_and_replaces_an_old_one(tmp_path: Path) -> None:
    made = random_features(np.random.default_rng(0), 21, 9, 3)
    for _ in range(2):
        save_similarity(tmp_path / "s.npy", ScoreTiles(made, top_frames=3, logit_scale=100.0, tile=(8, 4)))
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), whole_matrix(made), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npy"]


def test_a_drawn_bank_is_a_seeded_part_in_order() -> None:
    split = toy_examples(videos=5)
    drawn = _drawn(split, 3, seed=1)
    texts = list(split.captions)
    positions = [texts.index(text) for text in drawn.captions]
    assert positions == sorted(positions) and len(positions) == 3
    assert list(_drawn(split, 3, seed=1).captions) == list(drawn.captions)
    assert _drawn(split, 0, seed=1).num_captions == _drawn(split, 99, seed=1).num_captions == 5
