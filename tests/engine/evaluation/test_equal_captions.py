"""Captions that several videos share, against a naive count pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from dataloaders.examples import Examples, ExamplesBuilder
from engine.evaluation.equal_captions import equal_caption_groups, ranks_with_equal_captions
from engine.evaluation.ranking import rank_tiles
from engine.evaluation.similarity import MatrixTiles
from tests.engine.evaluation.naive_ranking import naive_rank


def split_of(pairs: list[tuple[str, str]]) -> Examples:
    builder = ExamplesBuilder()
    for video, caption in pairs:
        builder.add(video, caption)
    return builder.build()


def key(caption: str) -> str:
    return " ".join(caption.casefold().split())


def naive(scores: np.ndarray, split: Examples) -> tuple[np.ndarray, np.ndarray]:
    keys = [key(caption) for caption in split.captions]
    owners = split.video_of_caption.tolist()
    t2v = []
    for row, caption in zip(scores, keys, strict=True):
        right = {v for k, v in zip(keys, owners, strict=True) if k == caption}
        best = max(row[v] for v in right)
        rivals = [s for v, s in enumerate(row) if v not in right]
        t2v.append(naive_rank(best, rivals, positives=sum(row[v] == best for v in right)))
    v2t = []
    for video in range(split.num_videos):
        captions = {k for k, v in zip(keys, owners, strict=True) if v == video}
        sets: dict[int, float] = {}
        for k, v, s in zip(keys, owners, scores[:, video], strict=True):
            if v == video or k not in captions:
                sets[v] = max(sets.get(v, -np.inf), s)
        v2t.append(naive_rank(sets.pop(video), list(sets.values())))
    return np.array(t2v), np.array(v2t)


def test_captions_that_differ_in_case_and_spaces_are_equal() -> None:
    split = split_of([("a", "A man sings"), ("b", " a man  sings"), ("c", "a man sings."), ("b", "x")])
    assert [group.tolist() for group in equal_caption_groups(split)] == [[0, 1]]


def test_the_same_caption_twice_under_one_video_is_no_group() -> None:
    assert equal_caption_groups(split_of([("a", "x"), ("a", "x"), ("b", "y")])) == []


def test_without_equal_captions_the_ranks_are_the_plain_ones() -> None:
    split = split_of([("a", "x"), ("b", "y"), ("c", "z")])
    tiles = MatrixTiles(np.random.default_rng(0).standard_normal((3, 3)))
    plain = rank_tiles(tiles, split.video_of_caption)
    t2v, v2t = ranks_with_equal_captions(tiles, split, plain, equal_caption_groups(split))
    np.testing.assert_array_equal(t2v.expected, plain.t2v.expected)
    np.testing.assert_array_equal(v2t.expected, plain.v2t.expected)


@pytest.mark.parametrize("seed", range(40))
def test_all_videos_of_an_equal_caption_are_right(seed: int) -> None:
    """Few texts, so many are equal; in half of the cases few different scores, so many tie."""
    rng = np.random.default_rng(seed)
    videos, captions = 70, 150  # more than one tile
    pairs = [(f"v{v}", f"text {rng.integers(60)}") for v in range(videos)]
    pairs += [(f"v{rng.integers(videos)}", f"text {rng.integers(60)}") for _ in range(captions - videos)]
    split = split_of(pairs)
    texts, which = np.unique([key(c) for c in split.captions], return_inverse=True)
    by_text = (
        rng.integers(4, size=(len(texts), videos)) if seed % 2 else rng.standard_normal((len(texts), videos))
    )
    tiles = MatrixTiles(by_text[which].astype(np.float32), tile=(64, 64))  # equal captions score equal
    plain = rank_tiles(tiles, split.video_of_caption)
    t2v, v2t = ranks_with_equal_captions(tiles, split, plain, equal_caption_groups(split))
    expected = naive(tiles.similarity, split)
    np.testing.assert_allclose(t2v.expected, expected[0])
    np.testing.assert_allclose(v2t.expected, expected[1])
    assert (t2v.expected <= plain.t2v.expected).all() and (v2t.expected <= plain.v2t.expected).all()
    assert (t2v.expected < plain.t2v.expected).any()
    assert (t2v.within(5) >= plain.t2v.within(5) - 1e-9).all()
