"""Characters that nobody sees: queries lose them, the data doctor counts them."""

from __future__ import annotations

import pytest

from common.visible_text import invisible_characters, visible_text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("motor\u00adcycle", "motorcycle"),
        ("a mo\u200bn\u2060key\ufeff", "a monkey"),
        ("\u202edog\u202c", "dog"),
        ("弹\u200b吉他", "弹吉他"),
        ("a\x00dog\u2028runs\u00a0fast", "a dog runs fast"),
        ("\u3164 \u2800\u200d", ""),
        ("dog\ud83d", "dog"),
    ],
)
def test_invisible_characters_do_not_split_words(text: str, seen: str) -> None:
    assert visible_text(text) == seen


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("motor\u00adcycle", 1),
        ("\u200b\u200b", 2),
        ("a dog\truns", 0),
        ("我们 \U0001f469\u200d\U0001f373 \u2764\ufe0f", 0),  # a joiner and a selector that make an emoji
    ],
)
def test_they_are_counted_except_where_they_belong_to_an_emoji(text: str, count: int) -> None:
    assert len(invisible_characters(text)) == count
