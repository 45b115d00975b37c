"""JSON from files that others wrote: every way in which it can be wrong is one exception."""

from __future__ import annotations

import json
from typing import Any

import msgspec


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


_decode = msgspec.json.Decoder().decode


def parse_fast(text: str) -> Any:
    """`parse_json` of much text, by msgspec, which takes half the time. What it refuses gets another try:
    Python takes more (NaN, lone surrogates, any exponent), and says what is wrong."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return parse_json(text)
