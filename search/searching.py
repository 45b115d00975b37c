"""One search: candidates from the engine, their exact scores, hits with times and files. D joint width."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from search.index_folder import Snapshot, VideoIndex
from search.index_format import VideoRecord
from search.reranking import RERANKED, HeadScorer
from search.results import Hit, Moment
from search.scoring import Scores, best_frames, score_rows, with_totals

_ATTEMPTS = 3
_MORE = 10  # places for copies


def find(
    index: VideoIndex,
    query: np.ndarray,
    *,
    top: int,
    top_frames: int,
    frame_weight: float,
    candidates: int,
    scorer: HeadScorer | None = None,
) -> tuple[Hit, ...]:
    """The best `top` hits of `index` for the unit vector `query` [D]; exact copies are one hit.

    `candidates` rows of each view are scored exactly; more if `top` is large or many rows were removed. With
    a `scorer` the best of them by this score get another one, by which they are ranked.
    """
    for _ in range(_ATTEMPTS):
        snapshot = index.snapshot()
        hits = _find(index, snapshot, query, top, top_frames, frame_weight, candidates, scorer)
        # Search again if another process compacted the index (other rows) or removed videos (fewer hits).
        found = sum(1 + len(hit.copies) for hit in hits)
        enough = len(hits) == top or found >= len(index)
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
    scorer: HeadScorer | None,
) -> tuple[Hit, ...]:
    # FAISS still returns removed rows: ask for more, at most twice as many.
    wanted = max(candidates, 4 * top)
    extra = min(snapshot.features.rows - snapshot.videos, wanted)
    rows = snapshot.without_removed(index.engine.candidates(query, wanted + extra))
    best = top + _MORE
    while True:
        scores = score_rows(
            snapshot.features,
            rows,
            query,
            top=best if scorer is None else best + RERANKED,
            top_frames=top_frames,
            frame_weight=frame_weight,
        )
        if scorer is not None:
            scores = with_totals(scores, scorer(snapshot.features, scores.rows), top=best)
        records = index.records_of(scores.rows.tolist())
        groups = _groups(scores, records)
        if len(groups) >= top or len(scores.rows) < best:
            break
        best *= 4
    return tuple(_hit(scores, places, records, top_frames=top_frames) for places in groups[:top])


def _groups(scores: Scores, records: Mapping[int, VideoRecord]) -> list[list[int]]:
    """Places, exact copies together, best first. In a group those with a file come first, then older ones."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(scores.rows.tolist()):
        if row in records:
            groups.setdefault(records[row].digest or f"row {row}", []).append(place)
    for places in groups.values():
        if len(places) > 1:  # their scores may differ by rounding
            rows = {place: int(scores.rows[place]) for place in places}
            places.sort(key=lambda place: (records[rows[place]].is_missing, rows[place]))
    return list(groups.values())


def _hit(scores: Scores, places: list[int], records: Mapping[int, VideoRecord], *, top_frames: int) -> Hit:
    """The hit of the first of `places`; the others are its copies."""
    place, *others = places
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
        copies=tuple(records[int(scores.rows[other])].video_id for other in others),
    )
