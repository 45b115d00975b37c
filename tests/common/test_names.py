"""Names and paths: what lies in the working directory does not decide."""

from __future__ import annotations

import pytest

from common.names import is_path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("toy", False),
        ("openai", False),
        ("./toy", True),
        ("toy.json", True),
        ("a/b", True),
        ("TOY.JSON", True),
    ],
)
def test_a_path_has_a_separator_or_a_known_suffix(value: str, expected: bool) -> None:
    assert is_path(value, (".json",)) == expected
