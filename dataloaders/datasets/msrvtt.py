"""MSR-VTT annotation files -> Examples.

- `MSRVTT_data.json` has all videos: {"sentences": [{"video_id", "caption"}, ...], "videos": [...]}. Each
  entry of `videos` has the official split: {"video_id", "split": "train" | "validate" | "test"}.
- A CSV lists the videos of a split (`MSRVTT_train.9k.csv`, `MSRVTT_train.7k.csv`, `MSRVTT_test.full.csv`:
  column video_id) or its pairs (`MSRVTT_JSFUSION_test.csv`: columns video_id and sentence).

An empty caption is kept; it becomes a start and an end token.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import FilePath, csv_columns, read_csv, read_json, require_all, stream_json
from dataloaders.examples import Examples, ExamplesBuilder


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
