"""The similarity file, and the captions of the querybank."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from common.errors import FileError, UserError
from engine.evaluation.feature_files import SimilarityNotes, load_similarity_notes, save_similarity
from engine.evaluation.query_bank import sample_captions
from engine.evaluation.similarity import ScoreTiles
from modules.heads.hmmc import hmmc_head
from tests.dataloaders.toy import toy_examples
from tests.engine.evaluation.naive_ranking import full_matrix, random_features

NOTES = SimilarityNotes(100.0, np.arange(5) % 4)


def test_the_similarity_file_holds_the_full_matrix_and_replaces_an_old_one(tmp_path: Path) -> None:
    features = random_features(np.random.default_rng(0), 21, 9, 3)
    tiles = ScoreTiles(features, hmmc_head(), logit_scale=100.0, tile=(8, 4))
    owners = np.arange(21) % 9
    for _ in range(2):
        save_similarity(tmp_path / "s.npy", tiles, SimilarityNotes(100.0, owners))
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), full_matrix(features), atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json", "s.npy"]
    notes = load_similarity_notes(tmp_path / "s.npy", shape=(21, 9))
    assert notes is not None and notes.scale == 100.0
    np.testing.assert_array_equal(notes.video_of_caption, owners)
    with pytest.raises(UserError, match=r"s\.json: not of .*s\.npy, which has the shape \(9, 21\)"):
        load_similarity_notes(tmp_path / "s.npy", shape=(9, 21))


@pytest.mark.parametrize("text", ["", "[1]", '{"scale": "big"}', '{"other": 1}'])
def test_a_json_file_of_another_program_is_no_notes(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text, encoding="utf-8")
    assert load_similarity_notes(tmp_path / "s.npy", shape=(2, 2)) is None


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="disk space cannot be taken beforehand here")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_the_similarity_file_needs_its_disk_space_before_it_is_filled(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    tiles = ScoreTiles(random_features(np.random.default_rng(0), 5, 4, 3), hmmc_head(), logit_scale=100.0)
    if number == errno.ENOSPC:
        with pytest.raises(FileError, match=r"s\.npy: cannot be written \(No space left") as caught:
            save_similarity(tmp_path / "s.npy", tiles, NOTES)
        assert caught.value.exit_code == 1 and not list(tmp_path.iterdir())
    else:  # a file system that cannot take space beforehand
        save_similarity(tmp_path / "s.npy", tiles, NOTES)
        assert np.load(tmp_path / "s.npy").shape == (5, 4)


def test_a_sampled_bank_depends_on_the_seed_and_keeps_the_order() -> None:
    split = toy_examples(videos=5)
    sample = sample_captions(split, 3, seed=1)
    texts = list(split.captions)
    positions = [texts.index(text) for text in sample.captions]
    assert positions == sorted(positions) and len(positions) == 3
    assert list(sample_captions(split, 3, seed=1).captions) == list(sample.captions)
    assert all(sample_captions(split, count, seed=1).num_captions == 5 for count in (0, 99))
