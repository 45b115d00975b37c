"""Which installed fonts draw a text; matplotlib draws empty boxes for characters that its font lacks."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

BASE = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = "Last Resort"  # so do these: fonts that have a box for every character there is


def fonts_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Font families that together draw `texts`, the base font first, and the characters that none has."""
    families = [BASE]
    missing = {char for text in texts for char in text if not char.isspace()}
    missing -= _characters(font_manager.findfont(BASE))
    # The font that has most of them first: one text, one hand.
    while missing:
        best = max(
            _installed(), key=lambda name: len(missing & _characters(_installed()[name])), default=None
        )
        if best is None or not missing & _characters(_installed()[best]):
            break
        families.append(best)
        missing -= _characters(_installed()[best])
    return families, missing


@functools.cache
def _installed() -> dict[str, str]:
    """Upright fonts of normal weight: family -> file."""
    entries = font_manager.fontManager.ttflist
    return {
        entry.name: entry.fname
        for entry in sorted(entries, key=lambda entry: entry.fname)
        if not entry.name.startswith(PLACEHOLDERS)
        and entry.style == "normal"
        and entry.weight in (400, "normal", "regular", "book")
    }


@functools.cache
def _characters(file: str) -> frozenset[str]:
    try:
        return frozenset(chr(code) for code in FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # a font that went away, or one without a table of characters
        return frozenset()
