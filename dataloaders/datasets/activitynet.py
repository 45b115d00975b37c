"""ActivityNet Captions annotation files -> Examples: for retrieval, the sentences of a video are one text.

A file is {video id: {"duration": seconds, "timestamps": [[start, end], ...], "sentences": [text, ...]}}. Ids
begin with `v_`, as the names of the video files do; frame stores may leave that out. Papers train on `train`
and test on `val_1`; `val_2` has other sentences of nearly the same videos.

Source: Krishna et al., Dense-Captioning Events in Videos, ICCV 2017; paragraph retrieval as in Zhang et al.,
Cross-Modal and Hierarchical Modeling of Video and Text, ECCV 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import FilePath, read_id_list, read_json_object, repeated_keys, require_all
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

_PREFIX = "v_"
_ROUNDING = 0.5  # seconds that an end may lie after the duration, which is rounded


def read_split(annotations: FilePath, id_list: FilePath | None = None) -> Examples:
    """The sentences of all videos, or of the listed ones, in the order of the file.

    Ids of a list may lack the prefix. Raises `UserError` if the file has another form, if a video has no
    sentence, and if listed videos are not in it.
    """
    listed = None if id_list is None else [_with_prefix(video_id) for video_id in read_id_list(id_list)]
    wanted = None if listed is None else set(listed)
    builder = ExamplesBuilder()
    for video_id, entry in _entries(annotations):
        if wanted is None or video_id in wanted:
            for sentence in entry["sentences"]:
                builder.add(video_id, sentence, duration=_duration(annotations, video_id, entry))
    examples = builder.build()
    if listed is not None and id_list is not None:
        require_all(annotations, listed, examples.video_ids, listed_in=id_list)
    return examples


def _with_prefix(video_id: str) -> str:
    return video_id if video_id.startswith(_PREFIX) else _PREFIX + video_id


def _entries(path: FilePath) -> Iterator[tuple[str, dict[str, Any]]]:
    content = read_json_object(path)
    if not content:
        raise UserError(f"{path}: is empty")
    for video_id, entry in content.items():
        sentences = entry.get("sentences") if isinstance(entry, dict) else None
        if not isinstance(sentences, list) or not all(isinstance(text, str) for text in sentences):
            raise UserError(f"{path}: video {video_id} has no list 'sentences' of strings")
        if not any(text.strip() for text in sentences):
            raise UserError(f"{path}: video {video_id} has no sentence")
        yield _with_prefix(video_id), entry


def _duration(path: FilePath, video_id: str, entry: dict[str, Any]) -> float | None:
    seconds = entry.get("duration")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise UserError(f"{path}: video {video_id}: 'duration' must be seconds, it is {seconds!r}")
    return float(seconds)


def find_faults(files: SplitFiles) -> dict[str, list[str]]:
    """Moments that are not within their video, and videos with another number of moments than sentences."""
    outside, uneven = [], []
    for video_id, entry in _entries(files.annotations):
        times, end = entry.get("timestamps"), entry.get("duration")
        moments = times if isinstance(times, list) else []
        if len(moments) != len(entry["sentences"]):
            uneven.append(video_id)
        limit = float(end) + _ROUNDING if isinstance(end, int | float) else math.inf
        outside += [f"{video_id}: {moment}" for moment in moments if not _is_inside(moment, limit)]
    return {
        "moments outside of their video": outside,
        "videos with another number of timestamps than of sentences": uneven,
    }


def _is_inside(moment: object, limit: float) -> bool:
    if not isinstance(moment, list) or len(moment) != 2:
        return False
    start, end = moment
    return isinstance(start, int | float) and isinstance(end, int | float) and 0 <= start <= end <= limit


def _split(annotations: str) -> SplitSpec:
    return SplitSpec(
        annotations,
        None,
        "activitynet_lmdb",
        lambda files, _: read_split(files.annotations, files.list),
        words=64,
        quick_to_read=True,
        repeats=RepeatCheck(repeated_keys, "the last entry counts"),
        faults=find_faults,
    )


_TRAIN, _VAL = _split("train.json"), _split("val_1.json")

SPEC = DatasetSpec(
    name="activitynet",
    languages=("english",),
    # The captions of the test videos are not published, so "val" is the test list.
    splits={"pretrain": _TRAIN.for_pretraining(), "train": _TRAIN, "val": _VAL, "test": _VAL},
    protocol="paragraph",
    frames=64,
    store_prefix=_PREFIX,
    known_lists=(
        KnownList("train", 10_009, "", TRAINING, captions=37_421),
        KnownList(
            "val_1",
            4_917,
            "9b39bfbdf6a256a62addb0c54eb1bd56f487300f02e10df6c4bf886dab720e9d",
            HELD_OUT,
            captions=17_505,
        ),
    ),
)
