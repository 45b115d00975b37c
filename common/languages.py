"""The languages of captions and queries, and which of them a text is written in."""

from __future__ import annotations

import re
import unicodedata

LANGUAGES = ("english", "chinese")  # in a batch a language is its position here
BILINGUAL = "bilingual"
_LATIN_WORD = re.compile(r"[^\W\d_]+")


def languages_of(language: str) -> tuple[str, ...]:
    """The languages that a value of `--language` stands for: both for "bilingual", else that one."""
    return LANGUAGES if language == BILINGUAL else (language,)


def language_of(text: str) -> str:
    """`chinese` if `text` has at least as many Chinese characters as words in other letters, else `english`.

    A Chinese character counts like a word: an English sentence may name a character, and a Chinese one a
    product. A text without letters is `english`.
    """
    chinese = sum(map(_is_chinese, text))
    words = _LATIN_WORD.findall("".join(" " if _is_chinese(letter) else letter for letter in text))
    return "chinese" if chinese and chinese >= len(words) else "english"


def _is_chinese(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("CJK ") and letter.isalpha()
