"""Files in the encodings that spreadsheet programs write."""

from __future__ import annotations

import pytest

from common.text_encodings import not_utf8

ROWS = "video,caption\ncat.mp4,一只猫在沙发上睡觉,很安静\n" * 3


@pytest.mark.parametrize(
    ("encoding", "named"), [("utf-16", "UTF-16"), ("gb18030", "GB18030"), ("gbk", "GB18030")]
)
def test_the_encoding_is_named_with_what_to_do(encoding: str, named: str) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        ROWS.encode(encoding).decode("utf-8-sig")
    message = str(not_utf8("my.csv", caught.value))
    assert message.startswith("my.csv: is not UTF-8 text (") and f"but {named}" in message
    assert f"iconv -f {named} -t UTF-8 my.csv" in message


def test_another_encoding_is_not_guessed() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        "a café in Málaga, déjà vu".encode("latin-1").decode("utf-8-sig")
    assert str(not_utf8("my.csv", caught.value)).endswith("at byte 5)")
