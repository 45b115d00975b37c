"""Tables of captions of anybody's videos: forms, splits, languages, parts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from dataloaders.datasets.table import Table, read_table
from dataloaders.examples import Examples

ROWS = [
    ("cat.mp4", "a cat", "train"),
    ("cat.mp4", 'it "sleeps",\nthen wakes', "training"),
    ("dog.mov", "a dog", "val"),
    ("sub/owl", "an owl", "Test"),
]


def table_of(tmp_path: Path, text: str | bytes, name: str = "my_data.csv") -> Table:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path)


def pairs(examples: Examples) -> list[tuple[str, str]]:
    return [(examples.video_id_of(n), caption) for n, caption in enumerate(examples.captions)]


def as_csv(delimiter: str, header: str, end: str = "\n") -> str:
    rows = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ROWS]
    return end.join([header.replace(",", delimiter), *rows, ""])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", as_csv(",", "video,caption,split")),
        ("a.csv", "\ufeff" + as_csv(";", "Filename,Sentence,Split", "\r\n")),
        ("a.tsv", as_csv("\t", "video_path,text,subset")),
        ("a.csv", "\n" + as_csv("\t", "视频,描述,set")),
        (
            "a.jsonl",
            "\n".join(json.dumps(dict(zip(("video", "caption", "split"), r, strict=True))) for r in ROWS),
        ),
        ("a.json", json.dumps([dict(zip(("clip", "title", "split"), row, strict=True)) for row in ROWS])),
    ],
)
def test_every_form(name: str, text: str, tmp_path: Path) -> None:
    table = table_of(tmp_path, text, name)
    assert pairs(table.examples("train", "english")) == [("cat", "a cat"), ("cat", ROWS[1][1])]
    assert pairs(table.examples("val", "chinese")) == [("dog", "a dog")]  # no column: as the run says
    assert pairs(table.examples("test", "english")) == [("sub/owl", "an owl")]
    assert table.unused == () and table.remarks("english").warnings == ()


def test_several_captions_in_one_json_row(tmp_path: Path) -> None:
    table = table_of(tmp_path, '[{"video": 7, "caption": ["one", "two"], "note": 1}]', "a.json")
    assert pairs(table.examples("train", "english", whole=True)) == [("7", "one"), ("7", "two")]
    assert table.unused == ("note",)


def test_languages(tmp_path: Path) -> None:
    text = "a,a cat,en,train\na,一只猫,zh,train\nb,一只狗,Chinese,train\nc,an owl,english,test\n"
    table = table_of(tmp_path, "video,caption,language,split\n" + text)
    assert pairs(table.examples("train", "english")) == [("a", "a cat")]
    assert pairs(table.examples("train", "chinese")) == [("a", "一只猫"), ("b", "一只狗")]
    assert table.languages() == ("english", "chinese")
    message = "no row of split test is in chinese; its rows: english 2, chinese 2"
    with pytest.raises(UserError, match=message):
        table.examples("test", "chinese")


def test_parts_of_videos_have_ids_and_durations(tmp_path: Path) -> None:
    text = "video,start,end,caption\nlong.mp4,1.5,4,a\nlong.mp4,4,,b\nlong.mp4,1.5,4,c\nshort.mp4,,,d\n"
    examples = table_of(tmp_path, text).examples("train", "english", whole=True)
    assert list(examples.video_ids) == ["long_000001.500_000004", "long_000004_end", "short"]
    assert examples.video_of_caption.tolist() == [0, 1, 0, 2]
    assert examples.durations is not None
    np.testing.assert_equal(examples.durations, np.array([2.5, np.nan, np.nan], np.float32))


def test_without_a_split_a_share_is_held_out_by_video(tmp_path: Path) -> None:
    """The same share in any order of the rows; parts of one video are on one side."""
    rows = [f"v{n // 2}.mp4,{n % 2},{n % 2 + 1},text {n}" for n in range(60)]
    table = table_of(tmp_path, "\n".join(["video,start,end,caption", *rows]))
    train, test = (table.examples(split, "english") for split in ("train", "test"))
    assert (train.num_videos, test.num_videos) == (54, 6)
    assert not {id.split("_")[0] for id in train.video_ids} & {id.split("_")[0] for id in test.video_ids}
    turned = table_of(tmp_path, "\n".join(["video,start,end,caption", *rows[::-1]]), "turned.csv")
    assert set(turned.examples("test", "english").video_ids) == set(test.video_ids)
    assert table.examples("test", "english", whole=True).num_videos == 60
    assert "6 of its 60 videos are the test" in table.remarks("english").lines[1]
    assert len(table.remarks("english", whole=True).lines) == 1
    with pytest.raises(
        UserError, match="no row has the split 'val'; its rows: train 54, test 6; --select_on"
    ):
        table.examples("val", "english")
    alone = table_of(tmp_path, "video,start,end,caption\na,0,1,x\na,1,2,y\n", "alone.csv")
    with pytest.raises(UserError, match="clips of one video only and no column split"):
        alone.examples("train", "english")


def test_rows_that_are_left_out_are_counted(tmp_path: Path) -> None:
    text = "video,caption,split,url\na,x,train,1\na,x,train,2\na.mp4,x,train,3\nb, ,train,4\nc,y,test,5\n"
    table = table_of(tmp_path, text)
    assert pairs(table.examples("train", "english")) == [("a", "x")]
    path = tmp_path / "my_data.csv"
    remarks = table.remarks("english")
    assert remarks.lines == (f"{path}: 2 captions; columns video, caption, split; not used: url",)
    assert remarks.warnings == (
        f"{path}: 2 rows repeat another one and are left out",
        f"{path}: 1 rows have no caption and are left out: line 5",
    )


def test_parts_of_one_video_in_two_splits_are_named(tmp_path: Path) -> None:
    text = "video,start,end,caption,split\na.mp4,0,5,x,train\na.mp4,5,9,y,test\nb,0,1,z,test\n"
    (warning,) = table_of(tmp_path, text).remarks("english").warnings
    assert "1 videos have clips in more than one split (a)" in warning


def test_captions_in_another_language_are_told(tmp_path: Path) -> None:
    table = table_of(tmp_path, "video,caption\na,一只猫\nb,一只狗\nc,a cat\n")
    (warning,) = table.remarks("english").warnings
    assert "2 of 3 inspected captions" in warning and warning.endswith(
        "are in chinese; give --language chinese"
    )
    assert table.remarks("chinese").warnings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "my_data.csv: is empty"),
        ("\ufeff\n\n", "my_data.csv: is empty"),
        ("video,caption\n", "my_data.csv: has no rows"),
        (
            "name,caption\na,x\n",
            "has no column of the video: one of video_id, video, .*; its columns: name, capt",
        ),
        ("video;words\na;x\n", "has no column of the caption: one of caption, .*; its columns: video, words"),
        ("video,caption\na,x,y\n", "line 2: has 3 cells, the header has 2"),
        ('video,caption\na,"x\nb,y\n', "lines 2 to 3: is not CSV"),
        ("video,caption\na,x\n,y\n", "line 3: its video is empty"),
        ("video,caption\na,\nb, \n", "my_data.csv: every caption is empty"),
        ("video,caption,start,end\na,x,3,2\n", "line 2: start 3 s and end 2 s leave nothing"),
        ("video,caption,split\na,x,trian\n", "line 2: split 'trian': must be one of train, .*test"),
        ("video,caption,split\na,x,\n", "line 2: split '': must be one of train"),
        ("video,caption,language\na,x,fr\n", "line 2: language 'fr': must be one of english, en"),
        (
            "video,caption,split\na,x,train\na.mp4,y,test\n",
            "line 3: 'a' is in split test, and in train further",
        ),
        ("video_id,caption,end\na,x,2\na,y,3\n", "line 3: 'a' is repeated with another start or end"),
        ('{"video": "a", "caption": 5}\n', "line 1: its caption must be a text, it is 5"),
        ('{"video": "a", "caption": "x"}\n{"video": "b"}\n', "line 2: has no column of the caption"),
        (
            '{"video": "a", "caption": "x", "split": "test"}\n{"video": "b", "caption": "x"}\n',
            "line 2: some rows",
        ),
        ('["a"]', "entry 1: must be an object with video and caption"),
        (
            "video,caption\na,一只猫在沙发上睡觉\n".encode("gb18030"),
            "not UTF-8 .* but GB18030, .* iconv -f GB18030",
        ),
        ("video,caption\na,x\n".encode("utf-16"), "not UTF-8 .* but UTF-16, .* iconv -f UTF-16"),
    ],
)
def test_tables_that_cannot_be_used(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        table_of(tmp_path, text)


def test_a_table_is_read_again_after_it_changed(tmp_path: Path) -> None:
    first = table_of(tmp_path, "video,caption\na,x\n")
    assert read_table(tmp_path / "my_data.csv") is first
    assert len(table_of(tmp_path, "video,caption\na,x\nb,y\n").video_ids) == 2
    with pytest.raises(UserError, match=r"none.csv: no such file"):
        read_table(tmp_path / "none.csv")
