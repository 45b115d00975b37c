"""JSON of others: whatever is wrong with it is one exception."""

from __future__ import annotations

import json

import pytest

from common.json_text import parse_json


def test_json_is_read_from_text_and_bytes() -> None:
    assert parse_json('{"标题": [1]}') == parse_json('{"标题": [1]}'.encode()) == {"标题": [1]}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000])
def test_what_is_no_json_for_python_is_one_exception(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)
    with pytest.raises(UnicodeDecodeError):
        parse_json(b'"\xff"')
