import os
import threading
from pathlib import Path

import pytest

from common.errors import UserError
from dataloaders.datasets.files import (
    csv_columns,
    name_some,
    read_csv,
    read_id_list,
    read_json,
    read_json_lines,
    require_all,
)

CELLS = ["null", "NA", "None", "nan", "n/a", "", "123", 'a "quoted", one', "two\nlines", "一只猫", " spaces "]


def write(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_cells_come_back_exactly(tmp_path: Path, encoding: str) -> None:
    rows = "".join(
        f'{number:03d},"{cell.replace(chr(34), chr(34) * 2)}"\n' for number, cell in enumerate(CELLS)
    )
    path = write(tmp_path / "test.csv", "video_id,sentence\n" + rows, encoding=encoding)
    read = [cells for _, cells in read_csv(path, ["sentence", "video_id"])]
    assert read == [(cell, f"{number:03d}") for number, cell in enumerate(CELLS)]


def test_csv_with_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "test.csv", "video_id,sentence\r\n\r\n007,a cat\r\n\r\n")
    assert list(read_csv(path, ["video_id", "sentence"])) == [("line 3", ("007", "a cat"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("video_id,sentence\n", "no rows"),
        ("video_id,caption\nv,c\n", "no column 'sentence'.*video_id,caption"),
        ("video_id,sentence\nv\n", "line 2: has 1 cells, the header has 2"),
        ("video_id,sentence\nv,c\nw,a, b\n", "line 3: has 3 cells.*quoted"),
        ("video_id,sentence\nv,c\n,d\n", "line 3: its video_id is empty"),
        ('video_id,sentence\nv,c\nw,"never closed\n', "line 3: is not CSV"),
        ('video_id,sentence\nv,"never closed\nw,c\nx,c\n', "lines 2 to 4: is not CSV"),
        ("video_id\tsentence\nv\tc\nw\ta\tb\n", "line 3: has 3 cells.*a cell with a tab must be quoted"),
    ],
)
def test_bad_csv_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(UserError, match=f"bad.csv.*{message}") as raised:
        list(read_csv(path, ["video_id", "sentence"]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_tabs_and_semicolons_separate_cells_too(tmp_path: Path, delimiter: str) -> None:
    text = 'key,video_id,sentence\n1,007,"a cat"\n2,008,two dogs\n'.replace(",", delimiter)
    path = write(tmp_path / "test.tsv", text)
    assert csv_columns(path) == ["key", "video_id", "sentence"]
    cells = [cells for _, cells in read_csv(path, ["video_id", "sentence"])]
    assert cells == [("007", "a cat"), ("008", "two dogs")]
    assert read_id_list(path) == ["007", "008"]


def test_a_pipe_is_read_once_and_serves_every_reader(tmp_path: Path) -> None:
    """As `--eval_list <(head -n 500 list.csv)`: the columns are looked at before the rows."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("video_id,sentence\n007,a cat\n", "utf-8"))
    writer.start()
    assert csv_columns(pipe) == ["video_id", "sentence"]
    writer.join()
    assert [cells for _, cells in read_csv(pipe, ["sentence"])] == [("a cat",)]
    assert read_id_list(pipe) == ["007"]


def test_missing_files_folders_and_encodings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.csv: no such file"):
        csv_columns(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_json(tmp_path)
    gbk = write(tmp_path / "gbk.txt", "中文字幕\n", encoding="gbk")
    with pytest.raises(UserError, match=r"gbk\.txt: is not UTF-8"):
        read_id_list(gbk)


def test_json(tmp_path: Path) -> None:
    assert read_json(write(tmp_path / "a.json", '{"a": "一"}', encoding="utf-8-sig")) == {"a": "一"}
    with pytest.raises(UserError, match=r"b\.json: is empty"):
        read_json(write(tmp_path / "b.json", " \n"))
    with pytest.raises(UserError, match=r"c\.json, line 2: is not JSON"):
        read_json(write(tmp_path / "c.json", '{"a": 1,\n"b": }'))


def test_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"a": 1}\n\n{"a": 2}', encoding="utf-8-sig")
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    for text, message in [
        ("", "is empty"),
        ('{"a": 1}\n{"a"\n', "line 2: is not JSON"),
        ("[1]\n", "line 1: must be"),
    ]:
        with pytest.raises(UserError, match=f"b.json.*{message}"):
            list(read_json_lines(write(tmp_path / "b.json", text)))


def test_json_lines_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    half_a_character = '{"a": 1}\n{"a": "一'.encode()[:-1]
    for content, records in ((b"", []), (half_a_character, [(1, {"a": 1})])):
        path.write_bytes(content)
        assert list(read_json_lines(path, growing=True)) == records
    path.write_bytes(b'{"a"\n{"a": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: is not JSON"):
        list(read_json_lines(path, growing=True))


def test_id_list(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "-a\r\n007\n\n-a\nb \n", encoding="utf-8-sig")
    assert read_id_list(path) == ["-a", "007", "b"]
    with pytest.raises(UserError, match=r"empty\.txt: is empty"):
        read_id_list(write(tmp_path / "empty.txt", "\n"))
    with pytest.raises(UserError, match=r"tabs\.txt: has a tab in the line 'b.tone'; .* column video_id"):
        read_id_list(write(tmp_path / "tabs.txt", "a\nb\tone\n"))


def test_absent_ids_are_counted_and_five_named() -> None:
    with pytest.raises(
        ValueError, match=r"data: has no captions for 6 of the 7 videos in list: 1, 2, 3, 4, 5, \.\.\.$"
    ):
        require_all("data", list("0123456"), ["0"], listed_in="list")
    require_all("data", ["0"], ["0", "1"], listed_in="list")
    assert name_some(["a", "b"]) == "a, b"
