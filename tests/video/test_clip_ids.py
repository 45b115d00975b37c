"""Ids of parts of videos, and the columns that a frame store and training read them from."""

from __future__ import annotations

from math import inf

import pytest

from common.errors import UserError
from video.clip_ids import Part, clip_id, parse_clip_id
from video.clip_table import Clip, NoVideoError, clip_columns, find_column


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, "cat"),
        (0.0, inf, "cat"),
        (2.0, 12.0, "cat_000002_000012"),
        (None, 1.5, "cat_000000_000001.500"),
        (0.0004, 3600.0, "cat_000000_003600"),
        (59.9996, 61.25, "cat_000060_000061.250"),
        (5.0, None, "cat_000005_end"),
    ],
)
def test_the_id_of_a_part(start: float | None, end: float | None, expected: str) -> None:
    assert clip_id("cat", start, end) == expected


def test_an_id_tells_its_part() -> None:
    assert parse_clip_id(clip_id("a_b", 2, 12)) == Part("a_b", 2, 12)
    assert parse_clip_id(clip_id("a", 2.5, 1000.125)) == Part("a", 2.5, 1000.125)
    assert parse_clip_id(clip_id("a", 5)) == Part("a", 5, inf)
    assert parse_clip_id("a_000002.5_000003") is None and parse_clip_id("a_5_end") is None


def test_columns_by_the_names_that_people_use() -> None:
    for name in ("video", "Video", " FileName ", "clip", "path", "video_path", "视频"):
        columns = clip_columns(["caption", name, "Start", "END"])
        assert columns is not None and columns.names == (name, "Start", "END") and not columns.is_id
    both = clip_columns(["video", "video_id", "Start", "start"])  # lists of ids are read as they always were
    assert both is not None and both.names == ("video_id", "start") and both.is_id
    assert clip_columns(["caption", "split"]) is None
    assert find_column(["text", "caption"], ("caption", "text")) == "caption"


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ("cat", Clip("cat", "cat")),
        (" cat.MP4 ", Clip("cat", "cat.MP4")),
        ("2024.05.01", Clip("2024.05.01", "2024.05.01")),  # no extension of videos: part of the name
        ("a.b.mkv", Clip("a.b", "a.b.mkv")),
        ("./sub\\cat.mp4", Clip("sub/cat", "sub/cat.mp4")),
        ("sub/.mp4", Clip("sub/.mp4", "sub/.mp4")),
        (7, Clip("7", "7")),
    ],
)
def test_a_file_gives_its_id(video: object, expected: Clip) -> None:
    columns = clip_columns(["video"])
    assert columns is not None and columns.clip_of({"video": video}, place="x") == expected


def test_a_part_gives_its_id_and_ids_stay_as_they_are() -> None:
    row = {"video": "cat.mp4", "video_id": "cat.mp4", "start": "1.50049", "end": "4"}
    by_file, by_id = clip_columns(["video", "start", "end"]), clip_columns(row)
    assert by_file is not None and by_id is not None
    assert by_file.clip_of(row, place="x") == Clip("cat_000001.500_000004", "cat.mp4", 1.5, 4)
    assert by_id.clip_of(row, place="x") == Clip("cat.mp4", "cat.mp4", 1.50049, 4)
    assert by_file.clip_of({**row, "start": "", "end": None}, place="x") == Clip("cat", "cat.mp4")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": ""}, "x: its video is empty"),
        ({"video": True}, "x: its video is no text"),
        ({"video": "/data/cat.mp4"}, "x: video '/data/cat.mp4': an absolute path"),
        ({"video": "D:\\cat.mp4"}, "an absolute path"),
        ({"video": "../cat.mp4"}, "must be a file's name, or a path below the folder"),
        (
            {"video": "cat", "start": "00:01:02"},
            "x: start '00:01:02': start and end must be seconds, such as",
        ),
        ({"video": "cat", "start": 5, "end": 5}, "x: start 5 s and end 5 s leave nothing between"),
        ({"video": "cat", "start": -1}, "start -1 s"),
        ({"video": "cat", "end": "nan"}, "end nan s"),
    ],
)
def test_rows_that_name_no_clip(row: dict[str, object], message: str) -> None:
    columns = clip_columns(["video", "start", "end"])
    assert columns is not None
    with pytest.raises(UserError, match=message.replace("\\", "\\\\")) as caught:
        columns.clip_of(row, place="x")
    assert isinstance(caught.value, NoVideoError) == ("its video" in message)
