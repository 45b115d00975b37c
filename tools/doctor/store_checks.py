"""The data doctor's checks of a frame store, or of a folder of videos."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.errors import UserError
from dataloaders.datasets.splits import has_other_form, spread
from dataloaders.examples import Examples
from dataloaders.frame_sampling import frames_within
from dataloaders.frame_source import FramesError, FrameSource
from dataloaders.frame_store.format import FAILURES_FILE
from dataloaders.frame_store.reader import decode_jpeg
from tools.doctor.report import Report
from tools.store.remarks import BEYOND, LENGTH, MIN_DECODED, PARTLY, manifest_of, remarks_of
from video.clip_ids import Part


@dataclass
class DecodedVideos:
    """The videos of one split whose frames were decoded."""

    broken: dict[str, str] = field(default_factory=dict)  # video id -> its problem
    ids_by_hash: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # hash of all frames


def check_store(
    report: Report,
    split: str,
    examples: Examples,
    *,
    store: FrameSource,
    sample: int | None,
    spans: Mapping[str, Part] | None = None,
) -> DecodedVideos:
    """Check missing videos, frame counts and manifests of the whole split, and decode `sample` videos.

    Of video files (`store` is a folder of them), manifests are those of the decoded ones.

    The sample (None: all) is spread evenly over the split and is always the same. `spans`: the parts of
    source videos that the videos are, where an annotation file says it.
    """
    frames = {video_id: store.num_frames(video_id) for video_id in examples.video_ids}
    _report_counts(report, split, frames, store)
    present = [video_id for video_id, count in frames.items() if count]
    chosen = spread(present, sample)
    decoded = DecodedVideos()
    for video_id in chosen:
        _decode(decoded, store, video_id, num_frames=frames[video_id])
    _report_manifests(report, split, store, present, spans=spans or {})
    report.fact(split, "frames decoded", f"of {len(chosen):,} of {len(present):,} videos")
    _report_pictures(report, split, decoded)
    return decoded


def check_first_seconds(
    report: Report, split: str, examples: Examples, *, store: FrameSource, seconds: float
) -> None:
    """Report stored frames after the first `seconds` of their videos, which runs do not use.

    Where the store does not tell the times of its frames, nobody can leave them out: that is a warning.
    """
    longer, unknown = [], []
    for video_id in (video_id for video_id in examples.video_ids if video_id in store):
        stored, record = store.num_frames(video_id), store.manifest(video_id)
        if len((record or {}).get("times") or ()) != stored:
            unknown.append(video_id)
        elif frames_within(record, stored, seconds) < stored:
            longer.append(video_id)
    if longer:
        message = (
            f"videos with stored frames after {seconds:g} s, which are not used: {len(longer):,}; "
            f"frame2lmdb.py --first_seconds {seconds:g} stores more of the part that is"
        )
        report.add("note", split, "late-frames", message, count=len(longer), some=longer)
    if unknown:
        message = (
            f"videos of which no frame has a time, so those after {seconds:g} s are used: {len(unknown):,}"
        )
        report.add("warning", split, "no-times", message, count=len(unknown), some=unknown)


def check_same_pictures(
    report: Report, train: DecodedVideos, test: DecodedVideos, *, names: tuple[str, str]
) -> None:
    """Report decoded videos of both splits that have the same frames but different ids."""
    pairs = [
        f"{test_id} = {train_id}"
        for digest, ids in test.ids_by_hash.items()
        for test_id in ids
        for train_id in train.ids_by_hash.get(digest, [])
        if test_id != train_id
    ]
    if pairs:
        message = f"pairs of videos with the same frames: {len(pairs):,}"
        report.add("problem", " / ".join(names), "picture-leak", message, count=len(pairs), some=pairs)


def _report_counts(report: Report, split: str, frames: dict[str, int], store: FrameSource) -> None:
    missing = [video_id for video_id, count in frames.items() if not count]
    if missing:
        message = f"videos absent from the {store.kind}: {len(missing):,} of {len(frames):,}"
        other_form = sum(has_other_form(video_id, store) for video_id in missing)
        if other_form:
            message += f"; {other_form:,} of them are there with the name in another Unicode form"
        if (store.path / FAILURES_FILE).is_file():
            message += f"; {store.path / FAILURES_FILE} says why"
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


def _report_manifests(
    report: Report, split: str, store: FrameSource, video_ids: Sequence[str], *, spans: Mapping[str, Part]
) -> None:
    """Report videos that decode only in part, and untrimmed videos under the ids of their parts."""
    found: dict[str, list[str]] = defaultdict(list)
    for video_id in video_ids:
        record, part = manifest_of(store, video_id), spans.get(video_id)
        for remark in remarks_of(video_id, record, min_decoded=MIN_DECODED, part=part):
            found[remark.kind].append(f"{video_id}: {remark.numbers}")
    for kind, check, what in (
        (PARTLY, "partly-decoded", f"videos of which less than {100 * MIN_DECODED:.0f} % decodes"),
        (LENGTH, "clip-length", "videos that are not as long as the part that they are to be"),
        (BEYOND, "clip-end", "parts that end after their video"),
    ):
        some = found[kind]
        if some:
            report.add("warning", split, check, f"{what}: {len(some):,}", count=len(some), some=some)


def _decode(decoded: DecodedVideos, store: FrameSource, video_id: str, *, num_frames: int) -> None:
    digest = hashlib.sha256()
    for index in range(num_frames):
        try:
            (jpeg,) = store.read_jpegs(video_id, [index])
            decode_jpeg(jpeg)
        except FramesError as error:
            decoded.broken.setdefault(video_id, str(error).split(": ", 1)[-1])
        except UserError as error:
            decoded.broken.setdefault(video_id, f"video {video_id!r}, frame {index}: {error}")
        else:
            digest.update(jpeg)
    if video_id not in decoded.broken:
        decoded.ids_by_hash[digest.hexdigest()].append(video_id)


def _report_pictures(report: Report, split: str, decoded: DecodedVideos) -> None:
    if decoded.broken:
        count, some = len(decoded.broken), list(decoded.broken.values())
        message = f"videos with missing frames or incomplete JPEGs: {count:,}"
        report.add("problem", split, "broken-video", message, count=count, some=some)
    groups = [" = ".join(ids) for ids in decoded.ids_by_hash.values() if len(ids) > 1]
    if groups:
        message = f"groups of videos with the same frames: {len(groups):,}"
        report.add("warning", split, "same-pictures", message, count=len(groups), some=groups)
