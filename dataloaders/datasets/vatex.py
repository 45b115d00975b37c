"""VATEX annotation files -> Examples.

Annotations come in two forms: merged, {video_id: {"enCap": [...], "chCap": [...]}}, and the official release,
[{"videoID", "enCap", "chCap"}, ...]. A file of one language has only one of the two keys;
`tools/convert_vatex.py` merges files. A text file lists the ids of a split, one per line. An empty caption is
kept; it becomes a start and an end token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import (
    FilePath,
    name_some,
    read_id_list,
    read_json,
    repeated_keys,
    require_all,
    stream_json,
)
from dataloaders.datasets.spec import (
    HELD_OUT,
    TRAINING,
    DatasetSpec,
    KnownList,
    RepeatCheck,
    SplitSpec,
)
from dataloaders.examples import Examples, ExamplesBuilder
from video.clip_ids import parse_clip_id

CAPTION_KEYS = {"english": "enCap", "chinese": "chCap"}


def read_split(annotations: FilePath, id_list: FilePath, *, language: str) -> Examples:
    """All captions in `language` of the listed videos, in the order of the list.

    An id listed twice counts once. Raises `UserError` if a file is missing, empty or has the wrong form, if a
    caption is not a string, and if listed videos have no captions in `language`.
    """
    key = CAPTION_KEYS[language]
    wanted = read_id_list(id_list)
    captions_of = _stream_entries(annotations, set(wanted), key=key)
    if captions_of is None:
        captions_of = dict(read_entries(annotations))
    require_all(annotations, wanted, captions_of, listed_in=id_list)
    _require_language(annotations, wanted, captions_of, language=language, listed_in=id_list)
    builder = ExamplesBuilder()
    for video_id in wanted:
        for caption in _captions(annotations, video_id, captions_of[video_id], key=key):
            builder.add(video_id, caption)
    return builder.build()


def _stream_entries(path: FilePath, wanted: set[str], *, key: str) -> dict[str, Any] | None:
    """The `wanted` entries of a merged file, with the captions under `key` only.

    None if it has another form or any fault, of which `read_entries` then tells.
    """
    entries: dict[str, Any] = {}
    try:
        for video_id, entry in stream_json(path):
            if video_id in wanted:
                entries[video_id] = {key: entry[key]} if entry.get(key) else {}
    except (ValueError, AttributeError, RecursionError):
        return None
    return entries


def read_entries(path: FilePath) -> Iterator[tuple[str, Any]]:
    """(video id, its annotations) of a file in either form.

    Raises `UserError` if the file has neither form, and if the list form has an id twice.
    """
    content = read_json(path)
    if isinstance(content, dict):
        yield from content.items()
        return
    if not isinstance(content, list):
        raise UserError(
            f"{path}: must be a JSON object keyed by video id, or a list of {{videoID, enCap, chCap}}"
        )
    seen: set[str] = set()
    for number, entry in enumerate(content):
        video_id = entry.get("videoID") if isinstance(entry, dict) else None
        if not isinstance(video_id, str):
            raise UserError(f"{path}: entry {number} has no string 'videoID'")
        if video_id in seen:
            raise UserError(f"{path}: video {video_id} comes twice")
        seen.add(video_id)
        yield video_id, entry


def _require_language(
    path: FilePath, wanted: list[str], captions_of: dict[str, Any], *, language: str, listed_in: FilePath
) -> None:
    """Raise `UserError` if listed videos have no caption in `language`.

    The official release has Chinese captions for its training and validation videos only, not for the
    English test set.
    """
    key = CAPTION_KEYS[language]
    without = [
        video_id
        for video_id in wanted
        if isinstance(captions_of[video_id], dict) and not captions_of[video_id].get(key)
    ]
    if without:
        raise UserError(
            f"{path}: {len(without)} of the {len(wanted)} videos in {listed_in} have no {language} captions"
            f" ({key}): {name_some(without)}; tools/convert_vatex.py --covered lists those that have"
        )


def _captions(path: FilePath, video_id: str, entry: Any, *, key: str) -> list[str]:
    captions = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(captions, list) or not captions:
        raise UserError(f"{path}: video {video_id} has no list {key!r} of captions")
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{path}: video {video_id} has a caption in {key!r} that is not a string")
    return captions


def _split(id_list: str) -> SplitSpec:
    return SplitSpec(
        "vatex_data.json",
        id_list,
        "vatex_lmdb",
        lambda files, language: read_split(files.annotations, files.required_list(), language=language),
        repeats=RepeatCheck(repeated_keys, "the last entry counts"),
    )


_TRAIN, _VAL = _split("train_list.txt"), _split("val_list.txt")

SPEC = DatasetSpec(
    name="vatex",
    languages=("english", "chinese"),
    splits={
        "pretrain": _TRAIN.for_pretraining(),
        "train": _TRAIN,
        "val": _VAL,
        "test": _split("test_list.txt"),
    },
    validation=_VAL,
    zero_shot_for=("chinese", "bilingual"),
    span_of_id=parse_clip_id,
    captions_per_video=10,
    known_lists=(
        KnownList(
            "published train",
            25_991,
            "b03ec83a23fa56c606fe17b14d1ed90612c3543beb206a3d5db9889d01e452bc",
            TRAINING,
            captions=259_910,
        ),
        KnownList(
            "published val",
            1_500,
            "77fde2983497b56959246411452a9c4587c66956449deafd12ab3e678bc85d21",
            HELD_OUT,
            captions=15_000,
        ),
        KnownList(
            "published test",
            1_500,
            "efc26b559080d66fa7c8d694e6b3b051378322a051ef35f22c8312c117849d8d",
            HELD_OUT,
            "id for id CLIP2Video's HGR list",
            captions=15_000,
        ),
        KnownList(
            "random test1k5",
            1_500,
            "6ecb94ff2f4ca1a501a5488f551f5e28f3fbb8f7c8aadb04164772854b913556",
            (),
            "not the published test list: it shares 724 ids with that and 776 with the published val list, "
            "so figures are not comparable",
            captions=15_000,
        ),
    ),
    sizes_by_name=((r"test1k5", 1_500),),
    list_choices={"hgr": {}, "test1k5": {"test": "test1k5_sec_list.txt"}},
    protocol="several_captions",
)
