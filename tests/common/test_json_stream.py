"""Members of a JSON object one by one, beside `json.loads`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common import json_stream
from common.json_stream import iter_members

SENTENCES = [{"caption": f'a "man" }}, {{ {number} \u732b', "video_id": f"v{number}"} for number in range(50)]
NESTED = [{"a": {"b": [1, {}]}, "c": "},"}, {}, {"d": None}, 5, [], "x},"] * 7


@pytest.mark.parametrize("part", [1, 40, 300, 1 << 18])
@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"separators": (",", ":")}])
@pytest.mark.parametrize("items", [SENTENCES, NESTED, [], [{}]])
def test_members_are_those_of_the_object(
    items: list[Any], options: dict[str, Any], part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_PART", part)
    content = {"info": {"year": 2016}, "list": items, "empty": [], "last": [1, 2]}
    text = f" {json.dumps(content, **options)}\n"
    found = list(iter_members(text, items_of=("list", "empty")))
    assert found == [("info", {"year": 2016}), *(("list", item) for item in items), ("last", [1, 2])]


def test_an_empty_object_has_no_members() -> None:
    assert list(iter_members(" { } ")) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "5", "{", '{"list"', '{"list": ', '{"list": [', '{"list": [{}', '{"list": [{}]', "{,}"),
        *('{"list": [{},]}', '{"list": [,{}]}', '{"list": [{} {}]}', '{"list": []},', '{"list": [] "b": 1}'),
        *(
            '{"list": {}}',
            '{"list": [], "list": []}',
            '{"a": 1,}',
            "{5: 1}",
            '{"a": 1} {}',
            '{"list": [{},{]}',
        ),
    ],
)
def test_what_is_wrong_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        list(iter_members(text, items_of=("list",)))
