"""Names that are the same text in other code points: "é" is one code point (NFC) or two (NFD)."""

from __future__ import annotations

import unicodedata


def unicode_forms(name: str) -> list[str]:
    """The name as it is, then its other forms among NFC and NFD."""
    return list(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))
