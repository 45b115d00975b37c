"""Check a frame store: every key exists, every JPEG decodes, the counts are right.

Only worker processes read: badly damaged pages crash LMDB, which must not end the program. The result does
not depend on the number of workers; faults are listed in the order of the keys.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from math import inf
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from dataloaders.frame_store.format import METADATA_FILE
from dataloaders.frame_store.reader import FrameStore, FrameStoreError
from tools.store.remarks import manifest_of, remarks_of
from video.worker_pool import Fault, Output, WorkerPool

_BATCH = 64  # videos; some seconds of work


@dataclass(frozen=True)
class _Batch:
    """Videos of the store at `path` to check; `place` is their place in the order of the store."""

    place: tuple[int, int]
    path: Path
    video_ids: tuple[str, ...]
    min_decoded: float


@dataclass(frozen=True)
class _Survey:
    """The state records of a store and how many videos can be listed; `fault`: why the list ends early."""

    states: list[dict[str, Any] | None]
    videos: int
    fault: str


@dataclass
class Findings:
    """The state record of every shard, the number of checked videos, and the faults, one line each.

    `remarks` are about the videos, not about the store.
    """

    states: list[dict[str, Any] | None]
    checked: int
    faults: list[str]
    remarks: list[str]


def verify_store(path: Path, *, sample: int | None, workers: int, min_decoded: float) -> Findings:
    """Check all videos of the store, or `sample` random ones, with `workers` processes.

    `min_decoded`: a video of which a smaller share of the frames decodes gets a remark.
    Raises `FrameStoreError` if the path is no store.
    """
    store = FrameStore(path, allow_incomplete=True)
    survey = _survey_of(path)
    chosen: Iterator[str] = islice(store.video_ids(), survey.videos)
    wanted = survey.videos if sample is None else min(sample, survey.videos)
    if sample is not None:
        chosen = iter(random.Random(0).sample(list(chosen), wanted))
    useful = max(1, min(workers, -(-wanted // _BATCH)))
    batches = _batches(path, chosen, min_decoded)
    checked, faults, remarks = _check_batches(batches, total=wanted, workers=useful)
    if survey.fault:
        faults.append(survey.fault)
    elif not survey.videos:
        faults.append("the store holds no video")
    if sample is None and not survey.fault:
        faults += _wrong_totals(path, survey)
    return Findings(survey.states, checked, faults, remarks)


def _survey_of(path: Path) -> _Survey:
    with WorkerPool(_survey, workers=1, timeout=inf) as pool:
        (_, outcome), *_ = pool.run([path])
    if isinstance(outcome, Fault):
        return _Survey([], 0, f"frame store {path}: its videos cannot be listed: {outcome.message}")
    if isinstance(outcome[0], FrameStoreError):
        raise outcome[0]
    assert isinstance(outcome[0], _Survey)
    return outcome[0]


def _batches(path: Path, video_ids: Iterator[str], min_decoded: float) -> Iterator[_Batch]:
    """The ids in batches, so that a million of them are never in memory."""
    number = 0
    while batch := tuple(islice(video_ids, _BATCH)):
        yield _Batch((number, 0), path, batch, min_decoded)
        number += 1


def _check_batches(
    batches: Iterator[_Batch], *, total: int, workers: int
) -> tuple[int, list[str], list[str]]:
    """The number of checked videos, their faults and the remarks about them, in order."""
    faults: dict[tuple[int, int], list[str]] = {}
    remarks: dict[tuple[int, int], list[str]] = {}
    fatal: list[_Batch] = []
    checked = 0
    every = 0.5 if sys.stderr.isatty() else 30.0  # seconds between two updates of the bar
    with (
        WorkerPool(_check_batch, workers=workers, timeout=inf) as pool,
        tqdm(total=total, unit="video", mininterval=every) as bar,
    ):
        for batch, outcome in pool.run(batches):
            if isinstance(outcome, Fault):
                fatal.append(batch)
                continue
            faults[batch.place], remarks[batch.place] = outcome[0]
            checked += len(batch.video_ids)
            bar.update(len(batch.video_ids))
        # Batches that crashed their worker: video by video, to find out which one.
        for batch, outcome in pool.run(chain.from_iterable(map(_split, fatal))):
            if isinstance(outcome, Fault):
                faults[batch.place] = [_fatal(batch, outcome)]
            else:
                faults[batch.place], remarks[batch.place] = outcome[0]
            checked += 1
            bar.update()
    return checked, _in_order(faults), _in_order(remarks)


def _in_order(lines: dict[tuple[int, int], list[str]]) -> list[str]:
    return [line for place in sorted(lines) for line in lines[place]]


def _split(batch: _Batch) -> list[_Batch]:
    return [
        replace(batch, place=(batch.place[0], place), video_ids=(video_id,))
        for place, video_id in enumerate(batch.video_ids)
    ]


def _fatal(batch: _Batch, fault: Fault) -> str:
    return f"frame store {batch.path}: video {batch.video_ids[0]!r}: cannot be read: {fault.message}"


# In the workers


def _survey(path: Path) -> Output:
    videos, fault = 0, ""
    try:
        states = _store(path).states()
    except FrameStoreError as error:
        return error, []
    try:
        for _ in _store(path).video_ids():
            videos += 1
    except FrameStoreError as error:
        fault = f"{error}; only the {videos} videos before that were checked"
    return _Survey(states, videos, fault), []


def _check_batch(batch: _Batch) -> Output:
    store = _store(batch.path)
    faults = [fault for video_id in batch.video_ids for fault in faults_of(store, video_id)]
    remarks = [
        str(remark)
        for video_id in batch.video_ids
        for remark in remarks_of(video_id, manifest_of(store, video_id), min_decoded=batch.min_decoded)
    ]
    return (faults, remarks), []


@lru_cache(maxsize=1)
def _store(path: Path) -> FrameStore:
    cv2.setNumThreads(1)  # the pool's processes use all cores already
    return FrameStore(path, allow_incomplete=True)


def faults_of(store: FrameStore, video_id: str) -> list[str]:
    """The faults of a video's frames: absent, empty, broken, or not as its manifest says."""
    try:
        record, count = store.manifest(video_id) or {}, store.num_frames(video_id)
        faults = [fault for index in range(count) if (fault := _fault_of(store, video_id, index, record))]
        if not faults and store.has_frame(video_id, count):
            faults.append(f"video {video_id!r}: has more frames than the {count} of its manifest")
    except FrameStoreError as error:
        return [str(error)]
    return faults


def _fault_of(store: FrameStore, video_id: str, index: int, record: dict[str, Any]) -> str:
    try:
        size = store.read_frames(video_id, [index])[0].shape[:2]
    except FrameStoreError as error:
        return str(error)
    expected = (record.get("height", size[0]), record.get("width", size[1]))
    if size == expected or record.get("mixed_sizes"):
        return ""
    return f"video {video_id!r}, frame {index}: is {size}, the manifest says {expected}"


# Of the whole store


def _wrong_totals(path: Path, survey: _Survey) -> list[str]:
    states = [state for state in survey.states if state]
    counted = sum(state["videos"] for state in states)
    if not states:
        return []
    held = survey.videos
    faults = [f"the state record says {counted} videos, the store has {held}"] if counted != held else []
    metadata = path / METADATA_FILE
    if all(state["complete"] for state in states) and metadata.is_file():
        length = _length_in(metadata)
        faults += [f"{METADATA_FILE} says {length} videos"] if length != counted else []
    return faults


def _length_in(metadata: Path) -> object:
    try:
        return json.loads(metadata.read_text(encoding="utf-8")).get("length")
    except (ValueError, AttributeError):  # not JSON, or not of this form
        return "no number of"
