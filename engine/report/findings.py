"""What a report says about rankings: worst queries, confusing videos (hubs), captions by length, curves.

All functions return numbers and texts, ready for JSON; `page.py` shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dataloaders.examples import Examples
from engine.evaluation.metrics import summarise
from engine.evaluation.ranking import Rankings
from engine.evaluation.ranks import Ranks

DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
WORST = 10  # queries of each direction
WINNERS = 3  # candidates that rank above the right answer of a worst query
HUBS = 8
LENGTHS = 5  # groups of captions
EXAMPLES = 3  # captions that rank a confusing video first

Finding = dict[str, Any]


def worst_captions(rankings: Rankings, examples: Examples, *, count: int = WORST) -> list[Finding]:
    """The captions that rank their own video worst, one for each video, and the videos ranked above it."""
    cases: list[Finding] = []
    seen: set[int] = set()
    ranks = rankings.t2v.expected
    for caption in np.argsort(-ranks, kind="stable").tolist():
        video = int(examples.video_of_caption[caption])
        if len(cases) == count or ranks[caption] <= 1:
            break
        if video in seen:
            continue
        seen.add(video)
        ids, scores = rankings.t2v_top[caption], rankings.t2v_top_scores[caption]
        above = [(int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i not in (video, -1)]
        cases.append(
            {
                "caption": examples.captions[caption],
                "caption_number": caption,
                "video": examples.video_ids[video],
                "rank": float(ranks[caption]),
                "score": _short(rankings.t2v_positive[caption]),
                "won": [
                    {
                        "video": examples.video_ids[i],
                        "caption": _first_caption(examples, i),
                        "score": _short(score),
                    }
                    for i, score in above[:WINNERS]
                    if score >= rankings.t2v_positive[caption]
                ],
            }
        )
    return cases


def worst_videos(rankings: Rankings, examples: Examples, *, count: int = WORST) -> list[Finding]:
    """The videos with the worst ranks of their captions, and the captions of other videos ranked above."""
    cases = []
    ranks = np.nan_to_num(rankings.v2t.expected, nan=1.0)
    for video in np.argsort(-ranks, kind="stable")[:count].tolist():
        if ranks[video] <= 1:
            break
        ids, scores = rankings.v2t_top[video], rankings.v2t_top_scores[video]
        above = [(int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i != -1]
        others = [(i, s) for i, s in above if examples.video_of_caption[i] != video]
        cases.append(
            {
                "video": examples.video_ids[video],
                "caption": _first_caption(examples, video),
                "rank": float(ranks[video]),
                "score": _short(rankings.v2t_positive[video]),
                "won": [
                    {
                        "video": examples.video_id_of(i),
                        "caption": examples.captions[i],
                        "score": _short(score),
                    }
                    for i, score in others[:WINNERS]
                    if score >= rankings.v2t_positive[video]
                ],
            }
        )
    return cases


def confusing_videos(rankings: Rankings, examples: Examples, *, count: int = HUBS) -> list[Finding]:
    """The videos that most often rank first for a caption of another video (hubs)."""
    first = rankings.t2v_top[:, 0]
    wrong = (first != examples.video_of_caption) & (rankings.t2v.expected > 1)
    times = np.bincount(first[wrong], minlength=examples.num_videos)
    hubs = []
    for video in np.argsort(-times, kind="stable")[:count].tolist():
        if not times[video]:
            break
        took = np.flatnonzero(wrong & (first == video))
        hubs.append(
            {
                "video": examples.video_ids[video],
                "caption": _first_caption(examples, video),
                "times": int(times[video]),
                "took": [examples.captions[int(i)] for i in took[:EXAMPLES]],
            }
        )
    return hubs


def hub_summary(rankings: Rankings, examples: Examples) -> Finding:
    """How the wrong first places are distributed over the videos."""
    first = rankings.t2v_top[:, 0]
    wrong = (first != examples.video_of_caption) & (rankings.t2v.expected > 1)
    times = np.sort(np.bincount(first[wrong], minlength=examples.num_videos))[::-1]
    tenth = max(1, len(times) // 10)
    return {
        "wrong_first": int(wrong.sum()),
        "videos_that_took_one": int((times > 0).sum()),
        "share_of_the_tenth_that_takes_most": round(float(times[:tenth].sum() / max(1, wrong.sum())), 4),
    }


def length_of(language: str) -> tuple[str, Callable[[str], int]]:
    """(unit, function that counts it in a caption). Chinese has no spaces, so characters are counted."""
    if language == "chinese":
        return "characters", lambda caption: sum(not c.isspace() for c in caption)
    return "words", lambda caption: len(caption.split())


def by_length(rankings: Rankings, examples: Examples, *, language: str) -> list[Finding]:
    """Text-to-video metrics of groups of captions, from short to long; the groups are about equally large."""
    measure = length_of(language)[1]
    lengths = np.fromiter(map(measure, examples.captions), np.int64, examples.num_captions)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTHS + 1)[1:], method="inverted_cdf"))
    group = np.searchsorted(edges, lengths)
    groups = []
    for number in range(len(edges)):
        inside = group == number
        metrics = summarise(rankings.t2v[inside], direction="t2v")
        low, high = int(lengths[inside].min()), int(lengths[inside].max())
        groups.append({"from": low, "to": high, "captions": int(inside.sum()), **metrics})
    return groups


def recall_curve(ranks: Ranks, *, candidates: int) -> list[tuple[int, float]]:
    """(K, expected R@K in percent) for at most 60 K from 1 to `candidates`, evenly spaced on a log scale."""
    ranks = ranks.ranked
    points = np.unique(np.geomspace(1, max(1, candidates), 60).round().astype(int))
    return [(int(k), round(100.0 * float(ranks.within(int(k)).mean()), 4)) for k in points]


def rank_histogram(ranks: Ranks, *, candidates: int) -> list[Finding]:
    """Percent of the queries with expected rank 1, above 1 to 2, above 2 to 4, above 4 to 8 and so on."""
    expected = ranks.ranked.expected
    edges = 2 ** np.arange(int(np.ceil(np.log2(max(1, candidates)))) + 1)
    group = np.searchsorted(edges, expected)
    counts = np.bincount(group, minlength=len(edges))
    return [
        {
            "above": int(edges[i - 1]) if i else 0,
            "to": min(int(edge), candidates),
            "percent": 100.0 * count / len(expected),
        }
        for i, (edge, count) in enumerate(zip(edges.tolist(), counts.tolist(), strict=True))
    ]


def _first_caption(examples: Examples, video: int) -> str:
    """The first caption of a video; "" if it has none."""
    captions = np.flatnonzero(examples.video_of_caption == video)
    return examples.captions[int(captions[0])] if len(captions) else ""


def _short(score: float) -> float:
    return round(float(score), 3)
