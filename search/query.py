"""What a query may be: the limits, in one place for the command line, the library and the API."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

MAX_QUERY_CHARACTERS = 1000
MAX_TOP = 1000
MAX_FRAME_WEIGHT = 100.0
EXCLUDE_WEIGHT = 0.5  # how much of "snow" is taken from "dog"
_LANGUAGES = {"english": "English", "chinese": "Chinese"}


class QueryError(ValueError):
    """A query that cannot be answered; the message says what would be right."""


@dataclass(frozen=True)
class CleanText:
    """A text as the model gets it, and what the user should know about it."""

    text: str
    remarks: tuple[str, ...] = ()


def clean_text(text: str, *, language: str, name: str = "query") -> CleanText:
    """`text` without control characters and with single spaces; remarks where the model may not know it.

    `language` is the model's, "english" or "chinese"; `name` is what messages call the text. Raises
    `QueryError` where it is too long, empty, or has nothing to read in it.
    """
    if len(text) > MAX_QUERY_CHARACTERS:
        raise QueryError(f"the {name} has {len(text):,} characters; give at most {MAX_QUERY_CHARACTERS:,}")
    # Control, format and private characters, half surrogates and unassigned ones: nothing that one reads.
    # Emoji are joined by a format character, which is of no use to the tokenizers either.
    kept = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in text)
    kept = " ".join(kept.split())
    if not kept:
        raise QueryError(f"the {name} is empty; write what the video should show")
    return CleanText(kept, _language_remarks(kept, language, name=name))


def _language_remarks(text: str, language: str, *, name: str) -> tuple[str, ...]:
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return (f"the {name} has no letters: expect little of it",)
    han = sum(unicodedata.name(c, "").startswith("CJK ") for c in letters)
    latin = sum(unicodedata.name(c, "").startswith("LATIN ") for c in letters)
    known = latin if language == "english" else han
    if 2 * known >= len(letters):
        return ()
    return (f"the model was trained on {_LANGUAGES[language]} texts; the {name} looks like another language",)


def check_top(top: int) -> int:
    """`top` where it is a possible number of results. Raises `QueryError` elsewhere."""
    if not 1 <= top <= MAX_TOP:
        raise QueryError(f"top {top}: give a number from 1 to {MAX_TOP:,}")
    return top


def check_frame_weight(weight: float) -> float:
    """`weight` where it is possible. Raises `QueryError` elsewhere."""
    if not (math.isfinite(weight) and 0 <= weight <= MAX_FRAME_WEIGHT):
        raise QueryError(f"frame weight {weight}: give a number from 0 to {MAX_FRAME_WEIGHT:g}")
    return weight


def check_top_frames(top_frames: int) -> int:
    """`top_frames` where it is possible. Raises `QueryError` elsewhere."""
    if top_frames < 1:
        raise QueryError(f"top frames {top_frames}: must be at least 1")
    return top_frames
