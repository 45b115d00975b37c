"""Checks of lists, annotation files and captions, for the data doctor."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.datasets.files import csv_columns, open_text, read_csv, read_json, read_json_lines
from dataloaders.datasets.known_splits import (
    describe_split,
    has_other_sentences,
    identify,
    leaks,
    name_mismatch,
    normalize_text,
)
from dataloaders.datasets.registry import SplitFiles
from dataloaders.examples import Examples
from tools.doctor.clip_overlap import Span, overlapping_pairs, shared_sources
from tools.doctor.report import Report

CAPTIONS_EACH = {"msrvtt": 20, "vatex": 10}  # in one language

_NUMBER = re.compile(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?", re.IGNORECASE)
_MISSING = {"nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "nat", "undefined", "-", "?"}
_BOM = b"\xef\xbb\xbf"


def check_split_list(
    report: Report, split: str, examples: Examples, *, dataset: str, files: SplitFiles
) -> None:
    """Which list the split is, whether its name agrees, and what comes twice in its files."""
    known = identify(dataset, examples.video_ids)
    report.fact(split, "list", describe_split(dataset, split, examples).split(": ", 1)[1])
    if known is not None and split not in known.serves:
        report.add("warning", split, "wrong-list", f"the {known.name} list is not in use for {split}")
    if has_other_sentences(known, examples):
        report.add("warning", split, "sentences", "the sentences are not those of the published list")
    mismatch = name_mismatch(dataset, files.list, num_videos=examples.num_videos)
    if mismatch:
        report.add("warning", split, "count", mismatch)
    if files.list is not None:
        _check_list_file(report, split, files.list)
    for path in (files.annotations, files.list):
        if path is not None and path.is_file() and _has_bom(path):
            report.add("note", split, "bom", f"{path}: begins with a byte-order mark, which is skipped")


def check_annotation_ids(report: Report, split: str, annotations: Path, *, dataset: str) -> None:
    """Videos that the annotation file has twice, where a reader would not notice."""
    if dataset == "vatex":
        twice, consequence = _repeated_keys(annotations), "the last entry counts"
    elif dataset == "msrvtt":
        twice, consequence = _repeated_videos(annotations), "as two entries of 'videos'"
    elif split == "pretrain":
        twice, consequence = _repeated_docids(annotations), "each line adds a title to the same video"
    else:
        return
    if twice:
        message = f"{annotations}: videos that come more than once ({consequence}): {len(twice):,}"
        report.add("problem", split, "duplicate-annotation", message, count=len(twice), some=twice)


def check_captions_a_video(report: Report, split: str, examples: Examples, *, dataset: str) -> None:
    """Captions of a video: how many, and whether a known list has as many as its data set is made with."""
    counts = np.bincount(examples.video_of_caption, minlength=examples.num_videos)
    least, most = int(counts.min()), int(counts.max())
    report.fact(split, "captions a video", f"{least:,}" if least == most else f"{least:,} to {most:,}")
    known, usual = identify(dataset, examples.video_ids), CAPTIONS_EACH.get(dataset)
    if known is None or known.pairs_sha256 or usual is None:
        return
    others = [video_id for video_id, count in zip(examples.video_ids, counts, strict=True) if count != usual]
    if others:
        message = f"videos with another number of captions than {usual}: {len(others):,}"
        report.add("warning", split, "caption-count", message, count=len(others), some=others)


def check_captions(report: Report, split: str, examples: Examples) -> None:
    """Captions that are empty, look like numbers or missing values, or occur under several videos."""
    strange: dict[str, list[str]] = defaultdict(list)
    videos_of_text: dict[str, set[int]] = defaultdict(set)
    repeats = 0
    for number, caption in enumerate(examples.captions):
        text, video = normalize_text(caption), int(examples.video_of_caption[number])
        kind = strangeness(text)
        if kind:
            strange[kind].append(f"{examples.video_id_of(number)}: {caption!r}")
            continue
        repeats += video in videos_of_text[text]
        videos_of_text[text].add(video)
    for kind, some in strange.items():
        message = f"captions that {kind}, used as they stand: {len(some):,}"
        report.add("warning", split, "strange-caption", message, count=len(some), some=some)
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
            f"captions that repeat one of their video: {repeats:,}",
            count=repeats,
        )


def strangeness(text: str) -> str | None:
    """What is strange about a caption (as `normalize_text` leaves it), or None."""
    if not text:
        return "are empty"
    if text in _MISSING:
        return "look like a missing value"
    return "look like a number" if _NUMBER.fullmatch(text) else None


def check_overlaps(report: Report, split: str, examples: Examples, *, spans: Mapping[str, Span]) -> None:
    """Clips of one split that show the same seconds of the same source."""
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
    spans: Mapping[str, Span],
) -> None:
    """What a training split and a held-out one share: videos, texts, sources."""
    where, found = " / ".join(names), leaks(train, test)
    if found.videos:
        message = f"videos that are in both splits: {len(found.videos):,}"
        report.add("problem", where, "video-leak", message, count=len(found.videos), some=found.videos)
    if found.captions:
        message = f"texts that are captions in both splits: {len(found.captions):,}"
        report.add("note", where, "caption-leak", message, count=len(found.captions), some=found.captions)
    same_source, overlapping = shared_sources(spans, test.video_ids, train.video_ids)
    if same_source:
        message = f"{names[1]} videos cut from sources that {names[0]} has too: {len(same_source):,}"
        report.add("note", where, "source-leak", message, count=len(same_source), some=same_source)
    if overlapping:
        clips = {test_id for test_id, _ in overlapping}
        message = f"{names[1]} videos that overlap in time with {names[0]} videos: {len(clips):,}"
        some = [" + ".join(pair) for pair in overlapping]
        report.add("warning", where, "overlap-leak", message, count=len(clips), some=some)


def _check_list_file(report: Report, split: str, path: Path) -> None:
    twice = _repeated(_listed(path))
    # A list with sentences may give one video several of them.
    if twice and not (_is_csv(path) and "sentence" in csv_columns(path)):
        message = f"{path}: videos listed more than once: {len(twice):,}"
        report.add("warning", split, "duplicate-listed", message, count=len(twice), some=twice)


def _listed(path: Path) -> list[str]:
    """Ids of a list file with their repeats: a CSV with a column video_id, or one id a line."""
    if _is_csv(path):
        return [video_id for _, (video_id,) in read_csv(path, ["video_id"])]
    with open_text(path) as file:
        return [line.strip() for line in file if line.strip()]


def _has_bom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(3) == _BOM


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _repeated(ids: Iterable[str]) -> list[str]:
    return [video_id for video_id, count in Counter(ids).items() if count > 1]


def _repeated_keys(path: Path) -> list[str]:
    """Keys that the outermost object of a JSON file has twice: a parser silently keeps the last."""
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> bool:
        # Called for the inner objects first, so that what stays is of the outermost one.
        repeated[:] = _repeated(key for key, _ in pairs)
        return True

    with open_text(path) as file:
        content = json.load(file, object_pairs_hook=collect)
    return repeated if content is True else []


def _repeated_videos(path: Path) -> list[str]:
    content = read_json(path)
    videos = content.get("videos", []) if isinstance(content, dict) else []
    return _repeated(str(video.get("video_id")) for video in videos if isinstance(video, dict))


def _repeated_docids(path: Path) -> list[str]:
    return _repeated(str(record.get("docid")) for _, record in read_json_lines(path))
