"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.atomic_files import write_whole


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_as_a_whole(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    for text in ("old\n", "新\n"):
        write_whole(path, text, durable=durable)
        assert path.read_bytes() == text.encode("utf-8")
    with pytest.raises(UnicodeEncodeError):  # as a full disk: half-way
        write_whole(path, "half \ud800", durable=durable)
    assert path.read_text(encoding="utf-8") == "新\n"
    write_whole(path, "newest\n", durable=durable)
    assert [p.name for p in tmp_path.iterdir()] == ["best.json"]
    assert path.read_text(encoding="utf-8") == "newest\n"
