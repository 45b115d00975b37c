"""Checks of a frame store against a split, for the data doctor."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from dataloaders.examples import Examples
from dataloaders.frame_store.reader import FrameStore, FrameStoreError, decode_jpeg
from tools.doctor.report import Report


@dataclass
class LookedAt:
    """The videos of one split whose frames were decoded."""

    broken: dict[str, str] = field(default_factory=dict)  # video id -> what is wrong with it
    ids_of_pictures: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by hash


def check_store(
    report: Report, split: str, examples: Examples, *, store: FrameStore, sample: int | None
) -> LookedAt:
    """Missing videos and frames per video of the whole split; every frame of `sample` videos (None: all).

    The sample is spread evenly over the split, and is the same every time.
    """
    frames = {video_id: store.num_frames(video_id) for video_id in examples.video_ids}
    _report_counts(report, split, frames)
    present = [video_id for video_id, count in frames.items() if count]
    chosen = spread(present, sample)
    looked_at = LookedAt()
    for video_id in chosen:
        _look_at(looked_at, store, video_id, num_frames=frames[video_id])
    report.fact(split, "frames decoded", f"of {len(chosen):,} of {len(present):,} videos")
    _report_pictures(report, split, looked_at)
    return looked_at


def check_same_pictures(report: Report, train: LookedAt, test: LookedAt, *, names: tuple[str, str]) -> None:
    """Videos looked at that have the same frames under other ids in both splits."""
    pairs = [
        f"{held_out} = {trained}"
        for digest, ids in test.ids_of_pictures.items()
        for held_out in ids
        for trained in train.ids_of_pictures.get(digest, [])
        if held_out != trained
    ]
    if pairs:
        message = f"pairs of videos with the same frames: {len(pairs):,}"
        report.add("problem", " / ".join(names), "picture-leak", message, count=len(pairs), some=pairs)


def spread(items: Sequence[str], number: int | None) -> list[str]:
    """`number` of `items`, evenly spread from the first on; all of them where it is None or large."""
    if number is None or number >= len(items):
        return list(items)
    return [items[i * len(items) // number] for i in range(number)]


def _report_counts(report: Report, split: str, frames: dict[str, int]) -> None:
    missing = [video_id for video_id, count in frames.items() if not count]
    if missing:
        message = f"videos absent from the frame store: {len(missing):,} of {len(frames):,}"
        report.add("problem", split, "missing-video", message, count=len(missing), some=missing)
    counts = Counter(count for count in frames.values() if count)
    if not counts:
        return
    report.fact(split, "frames a video", {str(count): counts[count] for count in sorted(counts)})
    usual = counts.most_common(1)[0][0]
    fewer = [f"{video_id}: {count}" for video_id, count in frames.items() if 0 < count < usual]
    if fewer:
        message = f"videos with fewer frames than the usual {usual}: {len(fewer):,}"
        report.add("warning", split, "fewer-frames", message, count=len(fewer), some=fewer)


def _look_at(looked_at: LookedAt, store: FrameStore, video_id: str, *, num_frames: int) -> None:
    digest = hashlib.sha256()
    for index in range(num_frames):
        try:
            (jpeg,) = store.read_jpegs(video_id, [index])
            decode_jpeg(jpeg)
        except FrameStoreError as error:
            looked_at.broken.setdefault(video_id, str(error).split(": ", 1)[-1])
        except ValueError as error:
            looked_at.broken.setdefault(video_id, f"video {video_id!r}, frame {index}: {error}")
        else:
            digest.update(jpeg)
    if video_id not in looked_at.broken:
        looked_at.ids_of_pictures[digest.hexdigest()].append(video_id)


def _report_pictures(report: Report, split: str, looked_at: LookedAt) -> None:
    if looked_at.broken:
        count, some = len(looked_at.broken), list(looked_at.broken.values())
        message = f"videos with frames that are absent or no whole JPEG: {count:,}"
        report.add("problem", split, "broken-video", message, count=count, some=some)
    same = [" = ".join(ids) for ids in looked_at.ids_of_pictures.values() if len(ids) > 1]
    if same:
        message = f"groups of videos with the same frames under several ids: {len(same):,}"
        report.add("warning", split, "same-pictures", message, count=len(same), some=same)
