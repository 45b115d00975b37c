import gzip
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from dataloaders.datasets.vatex import read_split
from tests.dataloaders.toy import REALDATA, write_json

MERGED: dict[str, Any] = {
    "-a_000000_000010": {"enCap": ["one", "null"], "chCap": ["一", "二"]},
    "b": {"enCap": [""], "chCap": ["三"]},
    "c": {"enCap": ["not listed"], "chCap": []},
}
OFFICIAL = [{"videoID": video_id} | captions for video_id, captions in MERGED.items()]


def listed(folder: Path, *ids: str) -> Path:
    path = folder / "list.txt"
    path.write_text("".join(f"{video_id}\n" for video_id in ids), "utf-8")
    return path


@pytest.mark.parametrize("content", [MERGED, OFFICIAL], ids=["merged", "official"])
def test_both_forms_in_both_languages(tmp_path: Path, content: object) -> None:
    data, ids = write_json(tmp_path / "vatex_data.json", content), listed(tmp_path, "b", "-a_000000_000010")
    english = read_split(data, ids, language="english")
    assert list(english.video_ids) == ["b", "-a_000000_000010"]
    assert list(english.captions) == ["", "one", "null"]
    assert english.video_of_caption.tolist() == [0, 1, 1]
    assert list(read_split(data, ids, language="chinese").captions) == ["三", "一", "二"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text", "must be a JSON object keyed by video id, or a list"),
        ([{"id": "a"}], "entry 0 has no string 'videoID'"),
        ([{"videoID": "a", "enCap": ["x"]}] * 2, "video a comes twice"),
        ({"b": {"enCap": ["x"]}}, "no captions for 1 of the 1 videos in .*list.txt: a"),
        ({"a": {"chCap": ["x"]}}, r"1 of the 1 videos in .*list.txt have no english captions \(enCap\): a"),
        ({"a": {"enCap": []}}, r"1 of the 1 videos in .*list.txt have no english captions \(enCap\): a"),
        ({"a": {"enCap": "x"}}, "video a has no list 'enCap'"),
        ({"a": ["x"]}, "video a has no list 'enCap'"),
        ({"a": {"enCap": ["x", None]}}, "video a has a caption in 'enCap' that is not a string"),
    ],
)
def test_annotations_of_another_form(tmp_path: Path, content: object, message: str) -> None:
    data = write_json(tmp_path / "vatex_data.json", content)
    with pytest.raises(UserError, match=f"vatex_data.json.*{message}"):
        read_split(data, listed(tmp_path, "a"), language="english")


def test_files_of_one_language(tmp_path: Path) -> None:
    chinese = write_json(tmp_path / "chinese.json", [{"videoID": "a", "chCap": ["一"]}])
    assert list(read_split(chinese, listed(tmp_path, "a"), language="chinese").captions) == ["一"]
    with pytest.raises(UserError, match="no english captions"):
        read_split(chinese, listed(tmp_path, "a"), language="english")


def test_captions_of_part_of_a_split(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [{"videoID": f"v{i}", "enCap": ["x"]} for i in range(9)]
    entries[3]["chCap"] = ["一"]
    data = write_json(tmp_path / "data.json", entries)
    message = "8 of the 9 videos in .*: v0, v1, v2, v4, v5, ...; tools/convert_vatex.py --covered lists"
    with pytest.raises(UserError, match=message):
        read_split(data, listed(tmp_path, *(f"v{i}" for i in range(9))), language="chinese")
    assert read_split(data, listed(tmp_path, "v3"), language="chinese").num_captions == 1


def test_real_list_of_25991_ids_in_the_official_form(tmp_path: Path) -> None:
    source = REALDATA / "annotations" / "vatex" / "train_list.txt.gz"
    if not source.is_file():
        pytest.skip("real VATEX lists are not there (../shared/realdata)")
    ids = gzip.decompress(source.read_bytes()).decode("utf-8").split()
    content = [{"videoID": video_id, "enCap": ["a caption"] * 10, "chCap": ["字幕"] * 10} for video_id in ids]
    examples = read_split(
        write_json(tmp_path / "vatex_data.json", content), listed(tmp_path, *ids), language="chinese"
    )
    assert (examples.num_videos, examples.num_captions) == (25_991, 259_910)
