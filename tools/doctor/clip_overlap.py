"""Clips of the same source video, and clips that overlap in time.

Two clips of one source can show the same scene under two ids. VATEX ids have the form SOURCE_SSSSSS_EEEEEE
(seconds); MSR-VTT's annotations have `url`, `start time` and `end time` of every video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dataloaders.datasets.files import read_json
from video.clip_ids import Part, parse_clip_id


def spans_of_ids(video_ids: Iterable[str]) -> dict[str, Part]:
    """The spans of ids in VATEX's form; other ids are left out."""
    clips = ((video_id, parse_clip_id(video_id)) for video_id in video_ids)
    return {video_id: clip for video_id, clip in clips if clip}


def spans_of_msrvtt(annotations: Path) -> dict[str, Part]:
    """The spans of `videos` in MSRVTT_data.json; entries without url or times are left out."""
    content = read_json(annotations)
    videos = content.get("videos", []) if isinstance(content, dict) else []
    entries = ((video, _msrvtt_span(video)) for video in videos if isinstance(video, dict))
    return {str(video.get("video_id")): span for video, span in entries if span}


def _msrvtt_span(video: Mapping[str, Any]) -> Part | None:
    url, start, end = video.get("url"), video.get("start time"), video.get("end time")
    if not url or not isinstance(start, int | float) or not isinstance(end, int | float):
        return None
    return Part(str(url), float(start), float(end))


def overlapping_pairs(spans: Mapping[str, Part], ids: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of `ids` that overlap in time, each pair once."""
    by_source = _by_source(spans, ids)
    return [
        (first, second)
        for clips in by_source.values()
        for number, first in enumerate(clips)
        for second in clips[number + 1 :]
        if spans[first].overlaps(spans[second])
    ]


def shared_sources(
    spans: Mapping[str, Part], test_ids: Iterable[str], train_ids: Iterable[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """(test clips whose source is in training too; (test, training) pairs of clips that overlap in time)."""
    training_clips = _by_source(spans, train_ids)
    shared: list[str] = []
    overlapping: list[tuple[str, str]] = []
    for test_id in test_ids:
        span = spans.get(test_id)
        others = [clip for clip in training_clips.get(span.source, []) if clip != test_id] if span else []
        if span and others:
            shared.append(test_id)
            overlapping += [(test_id, clip) for clip in others if span.overlaps(spans[clip])]
    return shared, overlapping


def _by_source(spans: Mapping[str, Part], ids: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for video_id in ids:
        if video_id in spans:
            groups[spans[video_id].source].append(video_id)
    return groups
