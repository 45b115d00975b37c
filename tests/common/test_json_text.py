"""JSON of others: whatever is wrong with it is one exception."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from common.json_text import parse_fast, parse_json


def test_json_is_read_from_text_and_bytes() -> None:
    assert parse_json('{"标题": [1]}') == parse_json('{"标题": [1]}'.encode()) == {"标题": [1]}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000])
def test_what_is_no_json_for_python_is_one_exception(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)
    with pytest.raises(UnicodeDecodeError):
        parse_json(b'"\xff"')


NUMBERS = ["NaN", "-Infinity", "1e999", "-0", "-0.0", "1E5", "0.1", "2.2250738585072014e-308", "9" * 40]
STRINGS = [
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\ud800"',
    '"\\u0000"',
    '"\x7f\u2028"',
    '"a',
    '"\\x"',
    '"\n"',
    "'a'",
]
OBJECTS = [
    '{"a": 1, "a": 2}',
    '{"": {"": []}}',
    "{5: 1}",
    "{",
    " [1 ,2]\r\n",
    "[" * 5000 + "]" * 5000,
    "[1,]",
]
WRONG = ["", " ", "\ufeff1", "01", "1.", ".5", "+1", "nul", "1 2", "9" * 5000]


def outcome(parse: Any, text: str) -> str:
    """The value with its types, or the error."""
    try:
        return repr(parse(text))
    except json.JSONDecodeError as error:
        return f"{error.msg} at {error.pos}"


@pytest.mark.parametrize("text", [*NUMBERS, *STRINGS, *OBJECTS, *WRONG], ids=lambda text: ascii(text)[:20])
def test_the_fast_way_gives_what_python_gives(text: str) -> None:
    assert outcome(parse_fast, text) == outcome(parse_json, text)


def test_the_fast_way_with_random_values_and_damage() -> None:
    draw = random.Random(0)
    pieces = list('{}[]:,"\\ \n0123456789.-+eEtfnul\u732b\U0001f600')
    for _ in range(3000):
        text = json.dumps(random_value(draw, depth=3), ensure_ascii=draw.random() < 0.5)
        if draw.random() < 0.7:
            at = draw.randrange(len(text) + 1)
            text = text[:at] + draw.choice(pieces) + text[at + draw.randrange(2) :]
        assert outcome(parse_fast, text) == outcome(parse_json, text), text


def random_value(draw: random.Random, *, depth: int) -> Any:
    kind = draw.randrange(7 if depth else 5)
    if kind == 0:
        return draw.choice([None, True, False])
    if kind == 1:
        return draw.randrange(-(10 ** draw.randrange(1, 25)), 10**20)
    if kind == 2:
        return draw.uniform(-1, 1) * 10.0 ** draw.randrange(-320, 300)
    if kind < 5:
        return "".join(
            chr(draw.choice([draw.randrange(128), draw.randrange(0xD800), 0x1F600])) for _ in range(5)
        )
    values = [random_value(draw, depth=depth - 1) for _ in range(draw.randrange(4))]
    return values if kind == 5 else {str(i): value for i, value in enumerate(values)}
