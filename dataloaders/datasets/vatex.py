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
from dataloaders.datasets.files import FilePath, name_some, read_id_list, read_json, require_all, stream_json
from dataloaders.examples import Examples, ExamplesBuilder

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
