from __future__ import annotations

import pytest

from common.languages import LANGUAGES, language_of, languages_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a man is singing", "english"),
        ("一个男人在唱歌", "chinese"),
        ("iPhone 手机开箱", "chinese"),
        ("a sign with the character 水 on it", "english"),
        ("狗", "chinese"),
        ("", "english"),
        ("123 !?", "english"),
        ("dog 狗", "chinese"),
        ("ein Hund läuft", "english"),
        ("。,、", "english"),
    ],
)
def test_the_language_of_a_text(text: str, language: str) -> None:
    assert language_of(text) == language


def test_the_languages_of_the_flag() -> None:
    assert languages_of("bilingual") == LANGUAGES == ("english", "chinese")
    assert languages_of("chinese") == ("chinese",)
