"""What a report finds in rankings: worst queries, confusing videos, captions by length, curves.

N captions, V videos. Everything is numbers and names, ready for JSON; `report_page.py` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dataloaders.examples import Examples
from engine.evaluation.metrics import summarise
from engine.evaluation.ranking import Rankings

WORST = 10  # queries shown of each direction
WINNERS = 3  # shown of those that stand above a worst query's own
HUBS = 8
LENGTHS = 5  # groups of captions
EXAMPLES = 3  # captions that a confusing video took

Finding = dict[str, Any]


def worst_captions(rankings: Rankings, examples: Examples, *, count: int = WORST) -> list[Finding]:
    """The captions whose own video stands last, one a video, none of rank 1; with the videos that won."""
    found: list[Finding] = []
    seen: set[int] = set()
    for caption in np.argsort(-rankings.t2v, kind="stable").tolist():
        video = int(examples.video_of_caption[caption])
        if len(found) == count or rankings.t2v[caption] <= 1:
            break
        if video in seen:
            continue
        seen.add(video)
        ids, scores = rankings.t2v_top[caption], rankings.t2v_top_scores[caption]
        above = [(int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i not in (video, -1)]
        found.append(
            {
                "caption": examples.captions[caption],
                "caption_number": caption,
                "video": examples.video_ids[video],
                "rank": float(rankings.t2v[caption]),
                "score": _short(rankings.t2v_own[caption]),
                "won": [
                    {
                        "video": examples.video_ids[i],
                        "caption": _first_caption(examples, i),
                        "score": _short(score),
                    }
                    for i, score in above[:WINNERS]
                    if score >= rankings.t2v_own[caption]
                ],
            }
        )
    return found


def worst_videos(rankings: Rankings, examples: Examples, *, count: int = WORST) -> list[Finding]:
    """The videos whose captions stand last, none of rank 1; with the captions of others that won."""
    found = []
    ranks = np.nan_to_num(rankings.v2t, nan=1.0)
    for video in np.argsort(-ranks, kind="stable")[:count].tolist():
        if ranks[video] <= 1:
            break
        ids, scores = rankings.v2t_top[video], rankings.v2t_top_scores[video]
        above = [(int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i != -1]
        others = [(i, s) for i, s in above if examples.video_of_caption[i] != video]
        found.append(
            {
                "video": examples.video_ids[video],
                "caption": _first_caption(examples, video),
                "rank": float(rankings.v2t[video]),
                "score": _short(rankings.v2t_own[video]),
                "won": [
                    {
                        "video": examples.video_id_of(i),
                        "caption": examples.captions[i],
                        "score": _short(score),
                    }
                    for i, score in others[:WINNERS]
                    if score >= rankings.v2t_own[video]
                ],
            }
        )
    return found


def confusing_videos(rankings: Rankings, examples: Examples, *, count: int = HUBS) -> list[Finding]:
    """The videos that most often stand first for a caption of another video (hubs), at least once."""
    first = rankings.t2v_top[:, 0]
    wrong = (first != examples.video_of_caption) & (rankings.t2v > 1)
    times = np.bincount(first[wrong], minlength=examples.num_videos)
    found = []
    for video in np.argsort(-times, kind="stable")[:count].tolist():
        if not times[video]:
            break
        took = np.flatnonzero(wrong & (first == video))
        found.append(
            {
                "video": examples.video_ids[video],
                "caption": _first_caption(examples, video),
                "times": int(times[video]),
                "took": [examples.captions[int(i)] for i in took[:EXAMPLES]],
            }
        )
    return found


def hub_summary(rankings: Rankings, examples: Examples) -> Finding:
    """How the wrong first places are spread over videos."""
    first = rankings.t2v_top[:, 0]
    wrong = (first != examples.video_of_caption) & (rankings.t2v > 1)
    times = np.sort(np.bincount(first[wrong], minlength=examples.num_videos))[::-1]
    tenth = max(1, len(times) // 10)
    return {
        "wrong_first": int(wrong.sum()),
        "videos_that_took_one": int((times > 0).sum()),
        "share_of_the_tenth_that_takes_most": round(float(times[:tenth].sum() / max(1, wrong.sum())), 4),
    }


def length_of(language: str) -> tuple[str, Callable[[str], int]]:
    """(unit, its count in a caption): Chinese is written without spaces, so its characters are counted."""
    if language == "chinese":
        return "characters", lambda caption: sum(not c.isspace() for c in caption)
    return "words", lambda caption: len(caption.split())


def by_length(rankings: Rankings, examples: Examples, *, language: str) -> list[Finding]:
    """Figures of text to video for groups of captions of about equal number, from short to long."""
    measure = length_of(language)[1]
    lengths = np.fromiter(map(measure, examples.captions), np.int64, examples.num_captions)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTHS + 1)[1:], method="inverted_cdf"))
    group = np.searchsorted(edges, lengths)
    found = []
    for number in range(len(edges)):
        inside = group == number
        figures = summarise(rankings.t2v[inside], direction="t2v")
        low, high = int(lengths[inside].min()), int(lengths[inside].max())
        found.append({"from": low, "to": high, "captions": int(inside.sum()), **figures})
    return found


def recall_curve(ranks: np.ndarray, *, candidates: int) -> list[tuple[int, float]]:
    """(K, R@K in percent) at up to about 60 K from 1 to `candidates`, evenly spaced in the logarithm."""
    ranks = np.sort(ranks[~np.isnan(ranks)])
    points = np.unique(np.geomspace(1, max(1, candidates), 60).round().astype(int))
    share = 100.0 * np.searchsorted(ranks, points, side="right") / len(ranks)
    return [(int(k), round(float(s), 4)) for k, s in zip(points, share, strict=True)]


def rank_histogram(ranks: np.ndarray, *, candidates: int) -> list[Finding]:
    """Percent of the queries with a rank of 1, above 1 to 2, above 2 to 4, to 8 and so on."""
    ranks = ranks[~np.isnan(ranks)]
    edges = 2 ** np.arange(int(np.ceil(np.log2(max(1, candidates)))) + 1)
    group = np.searchsorted(edges, ranks)
    counts = np.bincount(group, minlength=len(edges))
    return [
        {
            "above": int(edges[i - 1]) if i else 0,
            "to": min(int(edge), candidates),
            "percent": 100.0 * count / len(ranks),
        }
        for i, (edge, count) in enumerate(zip(edges.tolist(), counts.tolist(), strict=True))
    ]


def _first_caption(examples: Examples, video: int) -> str:
    """The first caption of a video; "" where it has none."""
    own = np.flatnonzero(examples.video_of_caption == video)
    return examples.captions[int(own[0])] if len(own) else ""


def _short(score: float) -> float:
    return round(float(score), 3)
