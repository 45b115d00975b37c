"""Clips of the same source video, and clips that overlap in time.

Two clips of one source can show the same scene under two ids. The ids of some data sets name the part, the
annotations of others have it (`span_of_id` and `read_spans` of their `DatasetSpec`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from dataloaders.datasets.spec import DatasetSpec
from video.clip_ids import Part


def spans_of(spec: DatasetSpec, annotations: Path, video_ids: Iterable[str]) -> dict[str, Part]:
    """The spans that the data set tells, by its ids or its annotations (if the file exists)."""
    if spec.span_of_id is not None:
        spans = ((video_id, spec.span_of_id(video_id)) for video_id in video_ids)
        return {video_id: span for video_id, span in spans if span}
    if not annotations.exists():
        return {}
    return dict(spec.read_spans(annotations))


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
