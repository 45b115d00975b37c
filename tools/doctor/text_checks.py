"""The data doctor's checks of lists, annotation files and captions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import file_errors
from common.visible_text import invisible_characters, visible_text
from dataloaders.datasets.files import csv_columns, listed_ids, repeated
from dataloaders.datasets.known_splits import (
    describe_split,
    has_other_sentences,
    identify,
    leaks,
    name_mismatch,
    normalize_text,
)
from dataloaders.datasets.registry import dataset_spec
from dataloaders.datasets.spec import SplitFiles
from dataloaders.examples import Examples
from tools.doctor.clip_overlap import overlapping_pairs, shared_sources
from tools.doctor.report import Report
from video.clip_ids import Part

_NUMBER = re.compile(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?", re.IGNORECASE)
_MISSING = {"nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "nat", "undefined", "-", "?"}
_BOM = b"\xef\xbb\xbf"


def check_split_list(
    report: Report, split: str, examples: Examples, *, dataset: str, files: SplitFiles
) -> None:
    """Which published list the split is, whether its name fits, and what its files repeat."""
    split_list = identify(dataset, examples.video_ids)
    report.fact(split, "list", describe_split(dataset, split, examples).split(": ", 1)[1])
    if split_list is not None and split not in split_list.serves:
        report.add(
            "warning", split, "wrong-list", f"papers do not use the {split_list.name} list for {split}"
        )
    if has_other_sentences(split_list, examples):
        report.add("warning", split, "sentences", "the sentences differ from those of the published list")
    mismatch = name_mismatch(dataset, files.list, num_videos=examples.num_videos)
    if mismatch:
        report.add("warning", split, "count", mismatch)
    if files.list is not None:
        _check_list_file(report, split, files.list)
    for path in (files.annotations, files.list):
        if path is not None and path.is_file() and _has_bom(path):
            report.add("note", split, "bom", f"{path}: starts with a byte-order mark, which is skipped")


def check_annotation_ids(report: Report, split: str, annotations: Path, *, dataset: str) -> None:
    """Report repeated videos in the annotation file, which the reader does not notice."""
    check = dataset_spec(dataset).split(split).repeats
    found = check.find(annotations) if check else []
    if check and found:
        message = f"{annotations}: videos that come more than once ({check.meaning}): {len(found):,}"
        report.add("problem", split, "duplicate-annotation", message, count=len(found), some=found)


def check_faults(report: Report, split: str, files: SplitFiles, *, dataset: str) -> None:
    """Report entries of the annotation file that are wrong, but do no harm to training."""
    for what, some in dataset_spec(dataset).split(split).faults(files).items():
        if some:
            message = f"{files.annotations}: {what}: {len(some):,}"
            report.add("warning", split, "annotation-fault", message, count=len(some), some=some)


def check_captions_per_video(report: Report, split: str, examples: Examples, *, dataset: str) -> None:
    """Report the number of captions per video, and for a published list whether it is the usual one."""
    counts = np.bincount(examples.video_of_caption, minlength=examples.num_videos)
    least, most = int(counts.min()), int(counts.max())
    report.fact(split, "captions a video", f"{least:,}" if least == most else f"{least:,} to {most:,}")
    split_list, usual = identify(dataset, examples.video_ids), dataset_spec(dataset).captions_per_video
    if split_list is not None and split_list.captions not in (None, examples.num_captions):
        message = f"{examples.num_captions:,} captions; the published list has {split_list.captions:,}"
        report.add("warning", split, "caption-total", message)
    if split_list is None or split_list.pairs_sha256 or usual is None:
        return
    others = [video_id for video_id, count in zip(examples.video_ids, counts, strict=True) if count != usual]
    if others:
        message = f"videos with another number of captions than {usual}: {len(others):,}"
        report.add("warning", split, "caption-count", message, count=len(others), some=others)


def check_captions(report: Report, split: str, examples: Examples) -> None:
    """Report captions that are empty, look like numbers or missing values, or belong to several videos."""
    strange: dict[str, list[str]] = defaultdict(list)
    hidden: list[str] = []
    videos_of_text: dict[str, set[int]] = defaultdict(set)
    repeats = 0
    for number, caption in enumerate(examples.captions):
        text, video = normalize_text(caption), int(examples.video_of_caption[number])
        shown = f"{examples.video_id_of(number)}: {caption!r}"
        kind = strangeness(normalize_text(visible_text(caption)))
        if kind:
            strange[kind].append(shown)
            continue
        if invisible_characters(caption):
            hidden.append(shown)
        repeats += video in videos_of_text[text]
        videos_of_text[text].add(video)
    for kind, some in strange.items():
        message = f"captions that {kind}, used unchanged: {len(some):,}"
        report.add("warning", split, "strange-caption", message, count=len(some), some=some)
    if hidden:
        message = (
            "captions with characters that nobody sees, such as soft hyphens, which split words; used "
            f"unchanged: {len(hidden):,}"
        )
        report.add("warning", split, "invisible", message, count=len(hidden), some=hidden)
    shared = [text for text, videos in videos_of_text.items() if len(videos) > 1]
    if shared:
        shared.sort(key=lambda text: -len(videos_of_text[text]))
        message = f"texts that are captions of several videos: {len(shared):,}"
        report.add("note", split, "shared-caption", message, count=len(shared), some=shared)
    if repeats:
        report.add(
            "note",
            split,
            "repeated-caption",
            f"captions that repeat another caption of their video: {repeats:,}",
            count=repeats,
        )


def strangeness(text: str) -> str | None:
    """What is strange about a caption (a result of `normalize_text`), or None."""
    if not text:
        return "are empty"
    if text in _MISSING:
        return "look like a missing value"
    return "look like a number" if _NUMBER.fullmatch(text) else None


def check_overlaps(report: Report, split: str, examples: Examples, *, spans: Mapping[str, Part]) -> None:
    """Report clips of one split that show the same seconds of the same source."""
    pairs = overlapping_pairs(spans, examples.video_ids)
    if pairs:
        message = f"pairs of clips that overlap in time in their source video: {len(pairs):,}"
        report.add("note", split, "overlap", message, count=len(pairs), some=[" + ".join(p) for p in pairs])


def check_leaks(
    report: Report,
    train: Examples,
    test: Examples,
    *,
    names: tuple[str, str],
    spans: Mapping[str, Part],
) -> None:
    """Report videos, texts and source videos that a training and a test split have in common."""
    where, leaked = " / ".join(names), leaks(train, test)
    if leaked.videos:
        message = f"videos that are in both splits: {len(leaked.videos):,}"
        report.add("problem", where, "video-leak", message, count=len(leaked.videos), some=leaked.videos)
    if leaked.captions:
        message = f"texts that are captions in both splits: {len(leaked.captions):,}"
        report.add("note", where, "caption-leak", message, count=len(leaked.captions), some=leaked.captions)
    shared, overlapping = shared_sources(spans, test.video_ids, train.video_ids)
    if shared:
        message = f"{names[1]} videos whose source video is also in {names[0]}: {len(shared):,}"
        report.add("note", where, "source-leak", message, count=len(shared), some=shared)
    if overlapping:
        clips = {test_id for test_id, _ in overlapping}
        message = f"{names[1]} videos that overlap in time with {names[0]} videos: {len(clips):,}"
        some = [" + ".join(pair) for pair in overlapping]
        report.add("warning", where, "overlap-leak", message, count=len(clips), some=some)


def _check_list_file(report: Report, split: str, path: Path) -> None:
    found = repeated(listed_ids(path))
    # A list with sentences may have several of one video.
    if found and "sentence" not in csv_columns(path):
        message = f"{path}: videos listed more than once: {len(found):,}"
        report.add("warning", split, "duplicate-listed", message, count=len(found), some=found)


def _has_bom(path: Path) -> bool:
    with file_errors(path), open(path, "rb") as file:
        return file.read(3) == _BOM
