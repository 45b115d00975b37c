"""CHVTT annotation files -> Examples.

A file has one JSON object per line. Pre-training: {docid, duration, title, title_eng, tag, tag_eng}.
Fine-tuning: {query, query_eng, videolist: [{docid, title, title_eng, duration}, ...]}. A docid is a string or
a whole number; frame stores name the video `Video{docid}`. An empty text is kept; it becomes a start and an
end token.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import FilePath, read_json_lines, repeated
from dataloaders.datasets.spec import DatasetSpec, RepeatCheck, SplitSpec
from dataloaders.examples import Examples, ExamplesBuilder

STORE_PREFIX = "Video"
Place = tuple[FilePath, int]  # a file and a line of it; named only in an error, as there are millions
SUFFIXES = {"english": "_eng", "chinese": ""}


def read_pretrain(video_info: FilePath, *, language: str) -> Examples:
    """Titles (as captions) with tags and durations. A repeated docid adds a title to its video.

    Raises `UserError` with the line if a field is missing or has the wrong type.
    """
    suffix = SUFFIXES[language]
    builder = ExamplesBuilder()
    for number, record in read_json_lines(video_info):
        where = (video_info, number)
        builder.add(
            _store_id(record, where),
            _text(record, "title" + suffix, where),
            tag=_text(record, "tag" + suffix, where),
            duration=_duration(record, where),
        )
    return builder.build()


def read_queries(query_data: FilePath, *, language: str, first_only: bool) -> Examples:
    """(query, video) pairs: all videos of each query for training, only the first for validation
    (`first_only`).

    For training, a query without videos gives no pair. Raises `UserError` with the line if a field is missing
    or has the wrong type, and if a validation query has no video.
    """
    suffix = SUFFIXES[language]
    builder = ExamplesBuilder()
    for number, record in read_json_lines(query_data):
        where = (query_data, number)
        query = _text(record, "query" + suffix, where)
        for video in _videos(record, where, first_only=first_only):
            builder.add(_store_id(video, where), query, duration=_duration(video, where))
    examples = builder.build()
    if not examples.num_captions:
        raise UserError(f"{query_data}: no query has a video")
    return examples


def _named(where: Place) -> str:
    return f"{where[0]}, line {where[1]}"


def _videos(record: dict[str, Any], where: Place, *, first_only: bool) -> list[dict[str, Any]]:
    videos = record.get("videolist")
    if not isinstance(videos, list) or not all(isinstance(video, dict) for video in videos):
        raise UserError(f"{_named(where)}: 'videolist' must be a list of objects")
    if first_only and not videos:
        raise UserError(f"{_named(where)}: 'videolist' is empty, a validation query needs a video")
    return videos[:1] if first_only else videos


def _store_id(record: dict[str, Any], where: Place) -> str:
    docid = record.get("docid")
    if isinstance(docid, bool) or not isinstance(docid, (str, int)) or docid == "":
        raise UserError(f"{_named(where)}: 'docid' must be a string or a whole number")
    return f"{STORE_PREFIX}{docid}"


def _text(record: dict[str, Any], key: str, where: Place) -> str:
    text = record.get(key)
    if isinstance(text, str):
        return text
    if key not in record:
        raise UserError(f"{_named(where)}: has no field {key!r}")
    raise UserError(f"{_named(where)}: {key!r} must be a string, it is {text!r}")


def _duration(record: dict[str, Any], where: Place) -> float | None:
    """Seconds, or None if the record has no duration; only dynamic frame counts need one."""
    if record.get("duration") is None:
        return None
    try:
        seconds = float(record["duration"])
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UserError(f"{_named(where)}: 'duration' must be seconds, it is {record['duration']!r}")
    return seconds


def _repeated_docids(path: Path) -> list[str]:
    return repeated(str(record.get("docid")) for _, record in read_json_lines(path))


def _queries(query_data: str, *, first_only: bool) -> SplitSpec:
    return SplitSpec(
        query_data,
        None,
        "query_lmdb",
        lambda files, language: read_queries(files.annotations, language=language, first_only=first_only),
        words=15,
    )


_VAL = _queries("query_data_val_bilingual.json", first_only=True)

SPEC = DatasetSpec(
    name="chvtt",
    aliases=("bird",),
    languages=("english", "chinese"),
    splits={
        "pretrain": SplitSpec(
            "videoinfo_bilingual.json",
            None,
            "videoinfo_lmdb",
            lambda files, language: read_pretrain(files.annotations, language=language),
            words=45,
            tag_words=25,
            augments=True,
            repeats=RepeatCheck(_repeated_docids, "each line adds a title to the same video"),
        ).for_pretraining(),
        "train": _queries("query_data_train_bilingual.json", first_only=False),
        "val": _VAL,
        "test": _VAL,
    },
    store_prefix=STORE_PREFIX,
)
