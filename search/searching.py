"""One search: candidates from the engine, exact scores, hits with times and files. D joint width."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from search.index_folder import Snapshot, VideoIndex
from search.index_format import VideoRecord
from search.results import Hit, Moment
from search.scoring import Scores, best_frames, score_rows

_ATTEMPTS = 3


def find(
    index: VideoIndex,
    query: np.ndarray,
    *,
    top: int,
    top_frames: int,
    frame_weight: float,
    candidates: int,
) -> tuple[Hit, ...]:
    """The best `top` hits of `index` for the unit vector `query` [D].

    `candidates` of each view are scored exactly, more where `top` is large or many rows were removed.
    """
    for _ in range(_ATTEMPTS):
        now = index.snapshot()
        hits = _find(index, now, query, top, top_frames, frame_weight, candidates)
        # Compacting gives rows to other videos, and what was removed meanwhile leaves gaps: then look again.
        whole = len(hits) >= min(top, len(index))
        if whole and index.catalog.meta("generation") == now.generation:
            break
    return hits


def _find(
    index: VideoIndex,
    now: Snapshot,
    query: np.ndarray,
    top: int,
    top_frames: int,
    frame_weight: float,
    candidates: int,
) -> tuple[Hit, ...]:
    # Removed rows still come up in FAISS: room for them, up to twice the number.
    room = min(now.features.rows - now.videos, max(candidates, 4 * top))
    rows = now.living(index.engine.candidates(query, max(candidates, 4 * top) + room))
    scores = score_rows(now.features, rows, query, top=top, top_frames=top_frames, frame_weight=frame_weight)
    records = index.records_of(scores.rows.tolist())
    return tuple(
        _hit(scores, place, records, top_frames=top_frames)
        for place, row in enumerate(scores.rows.tolist())
        if row in records
    )


def _hit(scores: Scores, place: int, records: Mapping[int, VideoRecord], *, top_frames: int) -> Hit:
    record = records[int(scores.rows[place])]
    each = scores.each_frame[place]
    moments = tuple(
        Moment(int(frame), record.times[frame], round(float(each[frame]), 6))
        for frame in best_frames(each, top_frames)
    )
    return Hit(
        video_id=record.video_id,
        score=round(float(scores.total[place]), 6),
        video_score=round(float(scores.video[place]), 6),
        frame_score=round(float(scores.frame[place]), 6),
        moment=moments[0].seconds,
        frame=moments[0].frame,
        moments=moments,
        path=record.path,
        duration=record.duration,
        missing=record.is_missing,
    )
