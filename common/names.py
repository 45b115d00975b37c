"""Flags that take a name or a path: which of the two a value is must not depend on what lies in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence


def is_path(value: str, suffixes: Sequence[str] = ()) -> bool:
    """Whether `value` is a path: it has a separator, or ends in one of `suffixes`, such as ".json".

    All other values are names. A file beside the working program is given as "./FILE".
    """
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return any(separator in value for separator in separators) or value.lower().endswith(tuple(suffixes))
