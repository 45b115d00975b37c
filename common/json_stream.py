"""The members of a large JSON object one by one, so that they need not all be in memory at once."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from common.json_text import parse_fast

_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode
_PART = 1 << 18  # characters


def iter_members(text: str, *, items_of: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """(key, value) of every member of the object that `text` holds, in its order.

    A list under a key of `items_of` gives (key, item) for each of its items. Raises `ValueError` or
    `RecursionError` as soon as the text turns out not to be JSON, to be no object, or to have a key of
    `items_of` twice or with another value than a list: `json.loads` then says what is wrong, or reads it.
    """
    seen: set[str] = set()
    position = _expect(text, _skip(text, 0), "{")
    while text[position : position + 1] != "}":
        key, position = _decode(text, position)
        if not isinstance(key, str) or key in seen:
            raise ValueError(f"the key {key}")
        position = _expect(text, _skip(text, position), ":")
        if key in items_of:
            seen.add(key)
            position = _expect(text, position, "[")
            while text[position : position + 1] != "]":
                items, position = _some_items(text, position)
                for item in items:
                    yield key, item
                position = _next(text, position, "]")
            position += 1
        else:
            value, position = _decode(text, position)
            yield key, value
        position = _next(text, position, "}")
    if _skip(text, position + 1) != len(text):
        raise ValueError("more than one value")


def _some_items(text: str, position: int) -> tuple[list[Any], int]:
    """The next items of a list of objects, and where they end.

    A part that ends with an object is parsed at once, which is faster. If it ends within an item it is no
    JSON, and its items are parsed one by one.
    """
    end = text.rfind("},", position, position + _PART) + 1
    if end > position:
        with suppress(ValueError):
            return parse_fast(f"[{text[position:end]}]"), end
    items: list[Any] = []
    while True:
        item, position = _decode(text, position)
        items.append(item)
        after = _skip(text, position)
        if position >= end or text[after : after + 1] != ",":
            return items, position
        position = _skip(text, after + 1)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _expect(text: str, position: int, mark: str) -> int:
    """The position of what follows `mark`."""
    if text[position : position + 1] != mark:
        raise ValueError(f"{mark} is missing")
    return _skip(text, position + 1)


def _next(text: str, position: int, end: str) -> int:
    """After a member: the position of the next one, or of the mark `end`."""
    position = _skip(text, position)
    if text[position : position + 1] == end:
        return position
    position = _expect(text, position, ",")
    if text[position : position + 1] == end:
        raise ValueError("a comma before the end")
    return position
