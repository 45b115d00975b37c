"""JSON from files that others wrote: every way in which it can be wrong is one exception."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads` that raises `json.JSONDecodeError` also where Python gives up on valid JSON: lists nested
    too deep and whole numbers of thousands of digits. Bytes that are not UTF-8 raise `UnicodeDecodeError`.
    """
    try:
        return json.loads(text, **options)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deep", "", 0) from None
    except ValueError:
        raise json.JSONDecodeError("a number has too many digits", "", 0) from None


_decode = json.JSONDecoder().raw_decode


def parse_line(line: str) -> Any:
    """`parse_json` of a line of a long file. Most lines need less than `json.loads` does for any text."""
    try:
        value, end = _decode(line)
    except (ValueError, RecursionError):
        return parse_json(line)
    return parse_json(line) if line[end:].strip() else value
