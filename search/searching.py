"""One search: candidates from the engine, their exact scores, hits with times and files. D joint width."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from search.index_folder import Snapshot, VideoIndex
from search.index_format import Row
from search.reranking import RERANKED, HeadScorer
from search.results import Hit, Moment
from search.scoring import Scores, best_frames, score_rows, with_totals

_ATTEMPTS = 3
_MORE = 10  # places for copies
_MOMENTS = 16  # times as many places where long videos have several: scoring twice takes longer
MOST_MOMENTS = 8  # of one hit


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
        found = sum(1 + len(hit.copies) for hit in hits)
        if index.catalog.meta("generation") != snapshot.generation:
            continue  # another process compacted the index: rows have other numbers
        if len(hits) == top or found >= len(index):
            break
        # Another process removed videos, or many candidates are moments of the same few: search wider.
        candidates *= 8
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
    extra = min(snapshot.removed, wanted)
    rows = snapshot.without_removed(index.engine.candidates(query, wanted + extra))
    best = (top + _MORE) * (_MOMENTS if snapshot.cut else 1)
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
        held = index.records_of(scores.rows.tolist())
        groups = _groups(scores, held)
        known = sum(map(len, groups))  # copies included
        if len(groups) >= top or known >= snapshot.videos or len(scores.rows) < best:
            break
        best *= 4
    return tuple(_hit(scores, group, held, top_frames=top_frames) for group in groups[:top])


def _groups(scores: Scores, held: Mapping[int, Row]) -> list[list[list[int]]]:
    """Places, best first: of each video, and exact copies together.

    Of copies, a video with a file comes first, then the older one.
    """
    groups: dict[str, dict[int, list[int]]] = {}
    for place, row in enumerate(scores.rows.tolist()):
        if row in held:
            key = held[row].record.digest or f"row {held[row].first}"
            groups.setdefault(key, {}).setdefault(held[row].first, []).append(place)
    found = []
    for videos in groups.values():
        firsts = list(videos)
        if len(videos) > 1:  # their scores may differ by rounding
            missing = {first: held[int(scores.rows[videos[first][0]])].record.is_missing for first in firsts}
            firsts.sort(key=lambda first: (missing[first], first))
        found.append([videos[first] for first in firsts])
    return found


def _hit(scores: Scores, videos: list[list[int]], held: Mapping[int, Row], *, top_frames: int) -> Hit:
    """The hit of the first of `videos`, of which these are the places; the others are its copies."""
    places, *others = videos
    place = places[0]
    row = held[int(scores.rows[place])]
    record = row.record
    if row.start is None:
        each = scores.each_frame[place]
        best = best_frames(each, top_frames)
        moments = tuple(Moment(int(f), row.times[f], round(float(each[f]), 6)) for f in best)
    else:
        moments = tuple(_moment(scores, each, held) for each in places[:MOST_MOMENTS])
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
        copies=tuple(held[int(scores.rows[other[0]])].record.video_id for other in others),
        start=row.start,
        end=row.end,
    )


def _moment(scores: Scores, place: int, held: Mapping[int, Row]) -> Moment:
    """A moment of a long video, with its best frame."""
    number = int(scores.rows[place])
    row, each = held[number], scores.each_frame[place]
    frame = int(best_frames(each, 1)[0])
    total = round(float(scores.total[place]), 6)
    return Moment((number - row.first) * len(each) + frame, row.times[frame], total, row.start, row.end)
