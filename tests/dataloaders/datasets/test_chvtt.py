from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from dataloaders.datasets.chvtt import read_pretrain, read_queries
from tests.dataloaders.toy import write_lines

INFO: list[dict[str, Any]] = [
    {"docid": 12, "duration": 7.5, "title": "猫", "title_eng": "a cat", "tag": "动物", "tag_eng": "animal"},
    {"docid": "x", "duration": "3", "title": "狗", "title_eng": "a dog", "tag": "", "tag_eng": ""},
    {"docid": 12, "duration": 99, "title": "小猫", "title_eng": "kitten", "tag": "动物", "tag_eng": "animal"},
]
QUERIES: list[dict[str, Any]] = [
    {"query": "猫", "query_eng": "cat", "videolist": [{"docid": "1", "duration": 4}, {"docid": "2"}]},
    {"query": "狗", "query_eng": "dog", "videolist": [{"docid": "2", "duration": 6}]},
]


def test_pretraining_titles_tags_and_durations(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "info.json", INFO)
    chinese, english = (read_pretrain(path, language=language) for language in ("chinese", "english"))
    assert list(chinese.video_ids) == list(english.video_ids) == ["Video12", "Videox"]
    assert list(chinese.captions) == ["猫", "狗", "小猫"]
    assert list(english.captions) == ["a cat", "a dog", "kitten"]
    assert chinese.tags is not None and list(chinese.tags) == ["动物", "", "动物"]
    assert english.tags is not None and list(english.tags) == ["animal", "", "animal"]
    assert chinese.video_of_caption.tolist() == [0, 1, 0]
    assert chinese.durations is not None and chinese.durations.tolist() == [7.5, 3.0]


def test_every_query_video_pair_or_the_first(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "query.json", QUERIES)
    train = read_queries(path, language="english", first_only=False)
    pairs = [(train.captions[i], train.video_id_of(i)) for i in range(train.num_captions)]
    assert pairs == [("cat", "Video1"), ("cat", "Video2"), ("dog", "Video2")]
    assert train.tags is None
    assert train.durations is not None and train.durations[0] == 4 and np.isnan(train.durations[1])
    val = read_queries(path, language="chinese", first_only=True)
    assert list(val.captions) == ["猫", "狗"] and list(val.video_ids) == ["Video1", "Video2"]


def test_queries_without_videos(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "query.json", [QUERIES[0] | {"videolist": []}, QUERIES[1]])
    assert read_queries(path, language="english", first_only=False).num_captions == 1
    with pytest.raises(UserError, match=r"query\.json, line 1: 'videolist' is empty"):
        read_queries(path, language="english", first_only=True)
    write_lines(path, [QUERIES[0] | {"videolist": []}])
    with pytest.raises(UserError, match=r"query\.json: no query has a video"):
        read_queries(path, language="english", first_only=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"docid": None}, "'docid' must be a string or a whole number"),
        ({"docid": 1.5}, "'docid' must be"),
        ({"title": None}, "'title' must be a string, it is None"),
        ({"tag": ["a"]}, "'tag' must be a string"),
        ({"duration": "long"}, "'duration' must be seconds, it is 'long'"),
        ({"duration": -1}, "'duration' must be seconds"),
        ({"duration": [1]}, "'duration' must be seconds"),
    ],
)
def test_bad_fields_name_file_and_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "info.json", [INFO[0], INFO[1] | change])
    with pytest.raises(UserError, match=f"info.json, line 2: {message}"):
        read_pretrain(path, language="chinese")


def test_a_missing_language_is_reported(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "info.json", [{"docid": 1, "title": "猫", "tag": "动物"}])
    assert read_pretrain(path, language="chinese").durations is None
    with pytest.raises(UserError, match="line 1: has no field 'title_eng'"):
        read_pretrain(path, language="english")


def test_bad_videolist(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "query.json", [QUERIES[0] | {"videolist": ["1"]}])
    with pytest.raises(UserError, match="line 1: 'videolist' must be a list of objects"):
        read_queries(path, language="english", first_only=False)
