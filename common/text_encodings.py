"""What a file that is not UTF-8 probably is, and how to make UTF-8 of it."""

from __future__ import annotations

import re

from common.errors import UserError

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")


def not_utf8(path: object, error: UnicodeDecodeError) -> UserError:
    """The error for a file that raised `error` while it was read as UTF-8."""
    text = f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
    encoding = _encoding_of(error.object)
    if encoding is None:
        return UserError(text)
    return UserError(
        f"{text} but {encoding}, as spreadsheet programs write it: save it as 'CSV UTF-8', or run"
        f" iconv -f {encoding} -t UTF-8 {path} > NEW_FILE"
    )


def _encoding_of(data: bytes) -> str | None:
    """UTF-16 by its mark, GB18030 by its pairs of bytes; None if it is neither.

    In Chinese text of GB18030 nearly all bytes above 127 come in pairs. In the encodings of western languages
    an accented letter is one such byte, mostly alone.
    """
    if data.startswith(_UTF_16_MARKS):
        return "UTF-16"
    runs = [len(run) for run in _HIGH_BYTES.findall(data)]
    pairs = sum(length % 2 == 0 for length in runs)
    return "GB18030" if runs and 2 * pairs > len(runs) else None
