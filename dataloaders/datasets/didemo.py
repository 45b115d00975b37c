"""DiDeMo annotation files -> Examples: in retrieval, the descriptions of all moments of a video are one text.

A file is a list of moments: {"video", "description", "times": [[first, last], ...], "num_segments",
"annotation_id"}. `times` are what annotators marked, in pieces of five seconds. Ids are the names in `video`
without their extension: the same video comes with and without one. Videos were cut to their first 30 seconds
before they were annotated, so later frames are not used.

Source: Hendricks et al., Localizing Moments in Video with Natural Language, ICCV 2017.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import FilePath, read_id_list, read_json, repeated, require_all
from dataloaders.datasets.spec import (
    HELD_OUT,
    TRAINING,
    DatasetSpec,
    KnownList,
    RepeatCheck,
    SplitFiles,
    SplitSpec,
)
from dataloaders.examples import Examples, ExamplesBuilder

_EXTENSION = re.compile(r"\.\w{0,4}$")


def read_split(annotations: FilePath, id_list: FilePath | None = None) -> Examples:
    """The descriptions of all videos, or of the listed ones, in the order of the file.

    Raises `UserError` if the file has another form, and if listed videos have no description.
    """
    wanted = None if id_list is None else dict.fromkeys(map(video_id_of, read_id_list(id_list)))
    builder = ExamplesBuilder()
    for video_id, moment in _moments(annotations):
        if wanted is None or video_id in wanted:
            builder.add(video_id, moment["description"])
    examples = builder.build()
    if wanted is not None and id_list is not None:
        require_all(annotations, list(wanted), examples.video_ids, listed_in=id_list)
    return examples


def video_id_of(name: str) -> str:
    """The id of a video: its name without extension."""
    return _EXTENSION.sub("", name)


def _moments(path: FilePath) -> Iterator[tuple[str, dict[str, Any]]]:
    """(video id, moment) of every description. Raises `UserError` for another form."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: must be a list of {{video, description, times}}")
    for number, moment in enumerate(content):
        entry = moment if isinstance(moment, dict) else {}
        if not isinstance(entry.get("video"), str) or not isinstance(entry.get("description"), str):
            raise UserError(f"{path}: entry {number} must hold the strings 'video' and 'description'")
        yield video_id_of(entry["video"]), entry


def _repeated_annotations(path: Path) -> list[str]:
    numbered = (moment.get("annotation_id") for _, moment in _moments(path))
    return repeated(str(number) for number in numbered if number is not None)


def find_faults(files: SplitFiles) -> dict[str, list[str]]:
    """Moments that are not within their video."""
    outside = [
        f"{video_id}: {moment.get('times')}"
        for video_id, moment in _moments(files.annotations)
        if not _is_inside(moment.get("times"), moment.get("num_segments", 6))
    ]
    return {"moments outside of their video": outside}


def _is_inside(times: object, segments: object) -> bool:
    if not isinstance(times, list) or not isinstance(segments, int):
        return False
    pairs = [time for time in times if isinstance(time, list) and len(time) == 2]
    return len(pairs) == len(times) > 0 and all(
        isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < segments
        for first, last in pairs
    )


def _split(annotations: str) -> SplitSpec:
    return SplitSpec(
        annotations,
        None,
        "didemo_lmdb",
        lambda files, _: read_split(files.annotations, files.list),
        words=64,
        quick_to_read=True,
        repeats=RepeatCheck(_repeated_annotations, "the same annotation_id"),
        faults=find_faults,
    )


_TRAIN, _VAL = _split("train_data.json"), _split("val_data.json")

SPEC = DatasetSpec(
    name="didemo",
    languages=("english",),
    splits={
        "pretrain": _TRAIN.for_pretraining(),
        "train": _TRAIN,
        "val": _VAL,
        "test": _split("test_data.json"),
    },
    validation=_VAL,
    protocol="paragraph",
    frames=64,
    first_seconds=30.0,
    known_lists=(
        KnownList("train", 8_395, "", TRAINING, captions=33_005),
        KnownList("val", 1_065, "", HELD_OUT, captions=4_180),
        KnownList(
            "test",
            1_004,
            "9e98b69db2eed8341d77f2c8dd18e62a8207b79e19cd584b9c709c9431a3ea5e",
            HELD_OUT,
            captions=4_021,
        ),
    ),
)
