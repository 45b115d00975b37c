"""One search: candidates from the engine, their exact scores, hits with times and files. D joint width."""

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

    `candidates` rows of each view are scored exactly; more if `top` is large or many rows were removed.
    """
    for _ in range(_ATTEMPTS):
        snapshot = index.snapshot()
        hits = _find(index, snapshot, query, top, top_frames, frame_weight, candidates)
        # Search again if another process compacted the index (other rows) or removed videos (fewer hits).
        enough = len(hits) >= min(top, len(index))
        if enough and index.catalog.meta("generation") == snapshot.generation:
            break
    return hits


def _find(
    index: VideoIndex,
    snapshot: Snapshot,
    query: np.ndarray,
    top: int,
    top_frames: int,
    frame_weight: float,
    candidates: int,
) -> tuple[Hit, ...]:
    # FAISS still returns removed rows: ask for more, at most twice as many.
    wanted = max(candidates, 4 * top)
    extra = min(snapshot.features.rows - snapshot.videos, wanted)
    rows = snapshot.without_removed(index.engine.candidates(query, wanted + extra))
    scores = score_rows(
        snapshot.features, rows, query, top=top, top_frames=top_frames, frame_weight=frame_weight
    )
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
