"""Ranks and retrieval metrics (METHOD 6). Pure functions on NumPy arrays.

N captions, V videos, U caption sets (the videos that have captions, in order).

Rank of a query: 1 + items scored above the right one + half of the other items scored equal, that is the
expected rank if ties were broken at random. A constant matrix therefore never scores better than chance.
"""

from __future__ import annotations

import numpy as np

RECALL_AT = (1, 5, 10)
# How the figures are counted, for the result file.
PROTOCOL = {
    "t2v": "every caption is a query; rank of its video",
    "v2t": "every video is a query; rank of its caption set by its best caption",
    "ties": "expected rank",
    "median": "middle pair averaged",
}


def ranks_of_targets(
    scores: np.ndarray, targets: np.ndarray, *, queries: np.ndarray | None = None
) -> np.ndarray:
    """Expected rank of each row's target: float64 [n], from 1.

    `scores` [n, items]; `targets` int [n], the column of the right item; `queries` int [n] names the rows in
    errors (by default their positions). Raises `ValueError` on NaN, naming the query.
    """
    bad = np.isnan(scores).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        name = row if queries is None else int(queries[row])
        raise ValueError(
            f"similarity of query {name} is NaN: its features, or those of a candidate, are not finite"
        )
    own = scores[np.arange(len(scores)), targets][:, None]
    above = (scores > own).sum(axis=1)
    equal = (scores == own).sum(axis=1) - 1  # the target itself is no rival
    return 1.0 + above + 0.5 * equal


def caption_set_scores(scores: np.ndarray, video_of_caption: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best score over the captions of each set: ([n, U], int [U] the video of each set).

    `scores` [n, N], one row a video; `video_of_caption` int [N]. Captions may come in any order.
    """
    order = np.argsort(video_of_caption, kind="stable")
    videos, starts = np.unique(video_of_caption[order], return_index=True)
    return np.maximum.reduceat(scores[:, order], starts, axis=1), videos


def summarise(ranks: np.ndarray, *, direction: str) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, MedianR (middle pair averaged) and MeanR, as `t2v/R@1` and so on."""
    if not len(ranks):
        raise ValueError(f"{direction}: nothing to rank")
    recalls = {f"{direction}/R@{k}": 100.0 * float((ranks <= k).mean()) for k in RECALL_AT}
    return {
        **recalls,
        f"{direction}/MedianR": float(np.median(ranks)),
        f"{direction}/MeanR": float(ranks.mean()),
    }


def retrieval_metrics(similarity: np.ndarray, video_of_caption: np.ndarray) -> dict[str, float]:
    """Both directions from a whole matrix [N, V] that fits in memory; each V must have a caption."""
    t2v = ranks_of_targets(similarity, video_of_caption)
    set_scores, videos = caption_set_scores(similarity.T, video_of_caption)
    v2t = ranks_of_targets(set_scores[videos], np.arange(len(videos)))
    return {**summarise(t2v, direction="t2v"), **summarise(v2t, direction="v2t")}


def format_metrics(values: dict[str, float]) -> list[str]:
    """One line a direction, for the log."""
    lines = []
    for direction, title in (("t2v", "text to video"), ("v2t", "video to text")):
        recalls = "  ".join(f"R@{k} {values[f'{direction}/R@{k}']:5.1f}" for k in RECALL_AT)
        lines.append(
            f"{title}: {recalls}  MedianR {values[f'{direction}/MedianR']:.1f}  "
            f"MeanR {values[f'{direction}/MeanR']:.1f}"
        )
    return lines
