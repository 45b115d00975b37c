"""Names: which values of a flag are one and not a path, and their forms in Unicode."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence


def is_path(value: str, suffixes: Sequence[str] = ()) -> bool:
    """Whether `value` is a path: it has a separator, or ends in one of `suffixes`, such as ".json".

    All other values are names, whatever lies in the working folder: a file there is given as "./FILE".
    """
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return any(separator in value for separator in separators) or value.lower().endswith(tuple(suffixes))


def unicode_forms(name: str) -> list[str]:
    """The name as it is, then as other code points: "é" is one code point (NFC) or two (NFD)."""
    return list(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))
