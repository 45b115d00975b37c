"""Fonts for labels: matplotlib draws an empty box for a character that its font does not have."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

BASE = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = "Last Resort"  # comes with matplotlib too: a box for every character


def fonts_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """(font families that together draw `texts`, base font first; the characters that no font has)."""
    families = [BASE]
    missing = {char for text in texts for char in text if not char.isspace()}
    missing -= _characters(font_manager.findfont(BASE))
    # The font with most of the missing characters first, so that few fonts are mixed in one text.
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
    except (OSError, RuntimeError):  # a deleted font file, or a font without a character map
        return frozenset()
