"""The limits of queries."""

from __future__ import annotations

import math

import pytest

from search.query import (
    MAX_QUERY_CHARACTERS,
    QueryError,
    check_frame_weight,
    check_top,
    check_top_frames,
    clean_text,
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  a \t dog\n", "a dog"),
        ("a\x00dog\x1b[31m", "a dog [31m"),
        ("a dog", "a dog"),
        ("\u202edog", "dog"),
        ("motor\u00adcycle", "motorcycle"),
        ("dog\ud83d", "dog"),
        ("一只狗", "一只狗"),
        ("dog \U0001f436", "dog \U0001f436"),
    ],
)
def test_texts_are_cleaned_of_what_nobody_reads(text: str, clean: str) -> None:
    assert clean_text(text, language="english").text == clean


@pytest.mark.parametrize("text", ["", "   ", "\x00", "\u200b\u200d", "\ud83d"])
def test_nothing_to_read_is_no_query(text: str) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        clean_text(text, language="english")


def test_the_longest_query() -> None:
    assert clean_text("a" * MAX_QUERY_CHARACTERS, language="english").text
    with pytest.raises(QueryError, match="1,001 characters; give at most 1,000"):
        clean_text("a" * (MAX_QUERY_CHARACTERS + 1), language="english")


@pytest.mark.parametrize(
    ("text", "language", "told"),
    [
        ("a café in Zürich", "english", False),
        ("一个男人在唱歌", "chinese", False),
        ("一个男人用 iPhone 唱歌", "chinese", False),
        ("一个男人在唱歌", "english", True),
        ("a man is singing", "chinese", True),
        ("мужчина поёт", "english", True),
        ("🐶🏂", "english", True),
    ],
)
def test_other_languages_are_told_of(text: str, language: str, told: bool) -> None:
    assert bool(clean_text(text, language=language).remarks) == told


@pytest.mark.parametrize(
    ("check", "value"),
    [(check_top, 0), (check_top, 1001), (check_frame_weight, -0.1), (check_frame_weight, math.nan)]
    + [(check_frame_weight, math.inf), (check_top_frames, 0), (check_top, "5"), (check_top, 2.0)]
    + [(check_top, True), (check_frame_weight, "1"), (check_top_frames, None), (check_top_frames, 1.5)],
)
def test_numbers_out_of_range(check: object, value: float) -> None:
    with pytest.raises(QueryError):
        check(value)  # type: ignore[operator]
