"""Text without characters that nobody sees: in a word they split it into other tokens."""

from __future__ import annotations

import re
import unicodedata

# What Unicode calls "default ignorable": soft hyphen, zero-width spaces and joiners, marks of direction,
# fillers, selectors of variants, tags. And marks of annotations, which are not shown either.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_REMOVED = re.compile(f"[{_INVISIBLE}]")
# Between the signs of an emoji a joiner and a selector have a meaning.
_IN_EMOJI = re.compile(r"(?<=[^\w\s])[\u200d\ufe0e\ufe0f]+")
_BLANK = "\u2800"  # the Braille pattern without dots


def visible_text(text: str) -> str:
    """`text` without invisible characters, with single spaces for all that is blank or no character.

    Control and private characters, lone surrogates and unassigned ones become spaces.
    """
    kept = _REMOVED.sub("", text)
    spaced = "".join(" " if c == _BLANK or unicodedata.category(c)[0] == "C" else c for c in kept)
    return " ".join(spaced.split())


def invisible_characters(text: str) -> list[str]:
    """The characters of `text` that `visible_text` removes, without those that belong to an emoji."""
    return _REMOVED.findall(_IN_EMOJI.sub("", text))
