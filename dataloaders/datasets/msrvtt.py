"""MSR-VTT annotation files -> Examples.

- `MSRVTT_data.json` has all videos: {"sentences": [{"video_id", "caption"}, ...], "videos": [...]}. Each
  entry of `videos` has the official split: {"video_id", "split": "train" | "validate" | "test"}.
- A CSV lists the videos of a split (`MSRVTT_train.9k.csv`, `MSRVTT_train.7k.csv`, `MSRVTT_test.full.csv`:
  column video_id) or its pairs (`MSRVTT_JSFUSION_test.csv`: columns video_id and sentence).

An empty caption is kept; it becomes a start and an end token.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import (
    FilePath,
    csv_columns,
    read_csv,
    read_json,
    repeated,
    require_all,
    stream_json,
)
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
from video.clip_ids import Part


def read_captions_of_list(annotations: FilePath, list_csv: FilePath) -> Examples:
    """All captions of the videos that `list_csv` lists, in the order of `annotations`.

    A video listed twice counts once. Raises `UserError` if a file is missing, empty or has the wrong form,
    and if listed videos have no captions.
    """
    wanted = dict.fromkeys(video_id for _, (video_id,) in read_csv(list_csv, ["video_id"]))
    examples = _stream_captions(annotations, wanted) or _captions(annotations, _content(annotations), wanted)
    require_all(annotations, list(wanted), examples.video_ids, listed_in=list_csv)
    return examples


def read_test(annotations: FilePath | None, list_csv: FilePath) -> Examples:
    """The test split: the pairs of `list_csv` if it has a column `sentence`, else all captions of its videos.

    In a CSV of pairs, a repeated video gets one more caption; `annotations` are not read then.
    """
    if "sentence" not in csv_columns(list_csv):
        if annotations is None:
            raise UserError(f"{list_csv}: has no column 'sentence', so MSRVTT_data.json is needed too")
        return read_captions_of_list(annotations, list_csv)
    builder = ExamplesBuilder()
    for _, (video_id, sentence) in read_csv(list_csv, ["video_id", "sentence"]):
        builder.add(video_id, sentence)
    return builder.build()


def read_validation(annotations: FilePath) -> Examples:
    """All captions of the official validation videos, whose `split` in `annotations` is "validate".

    Raises `UserError` if there are no such videos or one has no captions.
    """
    content = _content(annotations)
    videos = content.get("videos")
    entries = [video for video in videos if isinstance(video, dict)] if isinstance(videos, list) else []
    wanted = dict.fromkeys(str(v.get("video_id")) for v in entries if v.get("split") == "validate")
    if not wanted:
        raise UserError(
            f"{annotations}: no entry of 'videos' has the split 'validate'; --select_on held_out needs none"
        )
    examples = _captions(annotations, content, wanted)
    require_all(annotations, list(wanted), examples.video_ids, listed_in=annotations)
    return examples


def _content(path: FilePath) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("sentences"), list):
        raise UserError(f"{path}: must be a JSON object with a list 'sentences' of {{video_id, caption}}")
    return content


def _stream_captions(path: FilePath, wanted: Container[str]) -> Examples | None:
    """`_captions` in less memory; None if the file has any fault, of which `_captions` then tells."""
    builder = ExamplesBuilder()
    try:
        for key, sentence in stream_json(path, items_of=("sentences",)):
            if key == "sentences":
                video_id, caption = sentence["video_id"], sentence["caption"]
                if not isinstance(video_id, str) or not isinstance(caption, str):
                    return None
                if video_id in wanted:
                    builder.add(video_id, caption)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return builder.build()


def _captions(path: FilePath, content: dict[str, Any], wanted: Container[str]) -> Examples:
    """All captions of the `wanted` videos."""
    builder = ExamplesBuilder()
    for video_id, caption in _sentences(path, content):
        if video_id in wanted:
            builder.add(video_id, caption)
    return builder.build()


def _sentences(path: FilePath, content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(video id, caption) of every sentence of the annotation file."""
    for number, sentence in enumerate(content["sentences"]):
        entry = sentence if isinstance(sentence, dict) else {}
        video_id, caption = entry.get("video_id"), entry.get("caption")
        if not isinstance(video_id, str) or not isinstance(caption, str):
            raise UserError(f"{path}: sentences[{number}] must hold the strings 'video_id' and 'caption'")
        yield video_id, caption


def read_list(list_csv: FilePath) -> tuple[list[str], bool]:
    """(the video ids of a list, whether it has their sentences too)."""
    ids = [video_id for _, (video_id,) in read_csv(list_csv, ["video_id"])]
    return ids, "sentence" in csv_columns(list_csv)


def read_spans(annotations: FilePath) -> dict[str, Part]:
    """The spans of `videos` in their source videos; entries without url or times are left out."""
    spans = ((str(video.get("video_id")), _span(video)) for video in _videos(annotations))
    return {video_id: span for video_id, span in spans if span}


def _span(video: Mapping[str, Any]) -> Part | None:
    url, start, end = video.get("url"), video.get("start time"), video.get("end time")
    if not url or not isinstance(start, int | float) or not isinstance(end, int | float):
        return None
    return Part(str(url), float(start), float(end))


def _repeated_videos(annotations: Path) -> list[str]:
    return repeated(str(video.get("video_id")) for video in _videos(annotations))


def _videos(annotations: FilePath) -> list[dict[str, Any]]:
    content = read_json(annotations)
    videos = content.get("videos", []) if isinstance(content, dict) else []
    return [video for video in videos if isinstance(video, dict)]


def _split(list_csv: str | None, read: Callable[[SplitFiles], Examples]) -> SplitSpec:
    return SplitSpec(
        "MSRVTT_data.json",
        list_csv,
        "msrvtt_lmdb",
        lambda files, _: read(files),
        repeats=RepeatCheck(_repeated_videos, "as two entries of 'videos'"),
    )


_TRAIN = _split(
    "MSRVTT_train.9k.csv", lambda files: read_captions_of_list(files.annotations, files.required_list())
)
_TEST = _split("MSRVTT_JSFUSION_test.csv", lambda files: read_test(files.annotations, files.required_list()))

SPEC = DatasetSpec(
    name="msrvtt",
    languages=("english",),
    # The published lists have no "val" split, so "val" is the test list. The official split of the data set
    # has validation videos, but the usual training lists contain them.
    splits={"pretrain": _TRAIN.for_pretraining(), "train": _TRAIN, "val": _TEST, "test": _TEST},
    validation=_split(None, lambda files: read_validation(files.annotations)),
    list_without_validation="MSRVTT_train.full.csv",
    zero_shot_for=("english",),
    read_list=read_list,
    read_spans=read_spans,
    captions_per_video=20,
    known_lists=(
        KnownList(
            "JSFusion 1k-A test",
            1_000,
            "64462f74c95235d602a0a231e7f2125640ebbf3de0e226fbdd5e64f621c46d83",
            HELD_OUT,
            pairs_sha256="d69752e478073bce2227b78bc9d47a54aabb27644a983d8e3d83af150c40fcad",
            captions=1_000,
        ),
        KnownList(
            "train 9k",
            9_000,
            "12e456ceab25905ffc585c4dfdf1d2972f563b63c317effdee7943bc84075ace",
            TRAINING,
            "for the 1k-A test; holds 1,990 videos of the full test",
            captions=180_000,
        ),
        KnownList(
            "train 7k",
            7_010,
            "e63825a66cb7194c0502b86c4178dc1dc4b0e84bd47337b563d9f4cd58890596",
            TRAINING,
            "the official training and validation videos together",
            captions=140_200,
        ),
        KnownList(
            "full train",
            6_513,
            "3824b98b962a59653d7191fee6b92eef5954374ae97ef284ed9a1f777c7e1825",
            TRAINING,
            captions=130_260,
        ),
        KnownList(
            "full val",
            497,
            "e58250844311d2323f43865e51e84f42b2862099f0df726d5a0df59f17f97f12",
            HELD_OUT,
            captions=9_940,
        ),
        KnownList(
            "full test",
            2_990,
            "e033df45731e025a1b7b4731ee3eddc400b6040c93fffd4ab3eb45a551f0526e",
            HELD_OUT,
            "figures on it are not comparable with those on 1k-A",
            captions=59_800,
        ),
    ),
    sizes_by_name=(
        (r"jsfusion", 1_000),
        (r"\b9k\b", 9_000),
        (r"\b7k\b", 7_010),
        (r"train\.full", 6_513),
        (r"val\.full", 497),
        (r"test\.full", 2_990),
    ),
    list_choices={
        "9k": {},
        "7k": {"pretrain": "MSRVTT_train.7k.csv", "train": "MSRVTT_train.7k.csv"},
        "full": {
            "pretrain": "MSRVTT_train.full.csv",
            "train": "MSRVTT_train.full.csv",
            "val": "MSRVTT_val.full.csv",
            "test": "MSRVTT_test.full.csv",
        },
    },
)
