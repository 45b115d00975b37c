"""Queries of either language to a bilingual model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search import Retriever, VideoIndex, index_videos
from search.query import QueryError, clean_text
from tests.search.conftest import write_model
from tools.search import main
from tools.toy.bert import write_toy_bert

ENGLISH, CHINESE = "a red square", "一个红色的正方形"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bilingual")
    write_toy_bert(folder / "bert", seed=0)
    return write_model(
        folder / "model", dataset="vatex", language="bilingual", pretrained_text=str(folder / "bert")
    )


def test_a_text_is_read_in_the_language_of_its_letters_or_in_the_given_one(checkpoint: Path) -> None:
    both = Retriever.from_checkpoint(checkpoint, device="cpu")
    alone = {
        language: Retriever.from_checkpoint(checkpoint, language=language, device="cpu")
        for language in ("english", "chinese")
    }
    found = both.encode_text([ENGLISH, CHINESE, ENGLISH])
    expected = {
        (text, name): one.encode_text([text])[0] for name, one in alone.items() for text in (ENGLISH, CHINESE)
    }
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(found[0], expected[ENGLISH, "english"], **close)
    np.testing.assert_allclose(found[1], expected[CHINESE, "chinese"], **close)
    np.testing.assert_allclose(found[2], found[0], **close)
    given = both.encode_text([ENGLISH], language="chinese")[0]
    np.testing.assert_allclose(given, expected[ENGLISH, "chinese"], **close)
    assert not np.allclose(given, found[0], atol=1e-3)
    vector, remarks = both.query_vector(CHINESE, exclude=ENGLISH)
    assert remarks == () and vector.shape == (64,)
    with pytest.raises(QueryError, match="language chinese: the model reads english texts only"):
        alone["english"].encode_text([CHINESE], language="chinese")


def test_one_index_answers_in_both_languages(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index_videos(Retriever.from_checkpoint(checkpoint, device="cpu"), tmp_path / "index", video_dir=videos)
    tops = {}
    with VideoIndex(tmp_path / "index") as index:
        retriever = Retriever.for_index(index, device="cpu")
        for text in (ENGLISH, CHINESE):
            results = retriever.search(index, text, top=4)
            assert len(results.hits) == 4 and results.remarks == ()
            tops[text] = [hit.score for hit in results.hits]
    assert not np.allclose(tops[ENGLISH], tops[CHINESE], atol=1e-4)
    for flags in ([CHINESE], [ENGLISH, "--language", "chinese"]):
        assert main(["query", str(tmp_path / "index"), *flags, "--top", "1"]) == 0
        assert "note:" not in capsys.readouterr().err


def test_another_language_than_both_is_remarked() -> None:
    assert clean_text(CHINESE, language="bilingual").remarks == ()
    assert clean_text("собака", language="bilingual").remarks == (
        "the model was trained on English and Chinese texts; the query looks like another language",
    )
