"""Limits of queries, in one place for the command line, the library and the API."""

from __future__ import annotations

import math
import numbers
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.languages import languages_of
from common.visible_text import visible_text

MAX_QUERY_CHARACTERS = 1000
MAX_TOP = 1000
MAX_FRAME_WEIGHT = 100.0
EXCLUDE_WEIGHT = 0.5  # how much of "snow" is subtracted from "dog"
_LANGUAGES = {"english": "English", "chinese": "Chinese", "bilingual": "English and Chinese"}


class QueryError(UserError):
    """A query that cannot be searched for; the message says what would be right."""


@dataclass(frozen=True)
class CleanText:
    """The text that the model encodes, and remarks to show to the user."""

    text: str
    remarks: tuple[str, ...] = ()


def clean_text(text: str, *, language: str | None, name: str = "query") -> CleanText:
    """`text` as it is seen (`visible_text`); a remark if it is in another language.

    `language` is the model's, "english", "chinese" or "bilingual", None for a model of many languages;
    messages call the text `name`. Raises `QueryError` if `text` is no text, too long or has no visible
    characters.
    """
    if len(check_text(text, name)) > MAX_QUERY_CHARACTERS:
        raise QueryError(f"the {name} has {len(text):,} characters; give at most {MAX_QUERY_CHARACTERS:,}")
    cleaned = visible_text(text)
    if not cleaned:
        raise QueryError(f"the {name} is empty; write what the video should show")
    return CleanText(cleaned, _language_remarks(cleaned, language, name=name))


def _language_remarks(text: str, language: str | None, *, name: str) -> tuple[str, ...]:
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return (f"the {name} has no letters: the results may be poor",)
    if language is None:
        return ()
    counts = {
        "chinese": sum(unicodedata.name(c, "").startswith("CJK ") for c in letters),
        "english": sum(unicodedata.name(c, "").startswith("LATIN ") for c in letters),
    }
    if 2 * sum(counts[each] for each in languages_of(language)) >= len(letters):
        return ()
    return (f"the model was trained on {_LANGUAGES[language]} texts; the {name} looks like another language",)


def check_top(top: int) -> int:
    """`top`, the number of results. Raises `QueryError` if it is no whole number, or out of range."""
    if not _is_whole(top) or not 1 <= top <= MAX_TOP:
        raise QueryError(f"top {top}: give a whole number from 1 to {MAX_TOP:,}")
    return int(top)


def check_frame_weight(weight: float) -> float:
    """`weight`, the frame weight. Raises `QueryError` if it is no number, or out of range."""
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not (is_number and math.isfinite(weight) and 0 <= weight <= MAX_FRAME_WEIGHT):
        raise QueryError(f"frame weight {weight}: give a number from 0 to {MAX_FRAME_WEIGHT:g}")
    return float(weight)


def check_top_frames(top_frames: int) -> int:
    """`top_frames`, the number of frames that count. Raises `QueryError` if it is no whole number above 0."""
    if not _is_whole(top_frames) or top_frames < 1:
        raise QueryError(f"top frames {top_frames}: must be a whole number, at least 1")
    return int(top_frames)


def check_text(text: Any, name: str) -> str:
    """`text`, which messages call `name`. Raises `QueryError` if it is no text."""
    if not isinstance(text, str):
        raise QueryError(f"the {name} must be a text, not {type(text).__name__}")
    return text


def check_path(path: Any, name: str) -> Path:
    """The path `path`, which messages call `name`. Raises `QueryError` if it is none."""
    if not isinstance(path, str | os.PathLike):
        raise QueryError(f"{name}: give the path of a file, not {type(path).__name__}")
    return Path(os.fsdecode(path))


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
