"""Captions that stand under several videos: counted, and ranked with all those videos as right answers.

N captions, V videos. Captions are equal if they differ in case and spaces only: the tokenizers make the same
of them. "A man is singing" under three test videos costs a perfect model two of three first places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from dataloaders.examples import Examples
from engine.evaluation.ranking import Rankings
from engine.evaluation.ranking_counts import CaptionOrder
from engine.evaluation.similarity import Tiles

_SCORES = 1 << 24  # scores held at once


def equal_caption_groups(examples: Examples) -> list[np.ndarray]:
    """The captions, int64, of each text that stands under more than one video; in the order of the first."""
    groups = defaultdict(list)
    for number, caption in enumerate(examples.captions):
        groups[" ".join(caption.casefold().split())].append(number)
    found = (np.array(group) for group in groups.values() if len(group) > 1)
    return [group for group in found if len(set(examples.video_of_caption[group].tolist())) > 1]


@torch.inference_mode()
def ranks_with_equal_captions(
    tiles: Tiles, examples: Examples, rankings: Rankings, groups: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(t2v float64 [N], v2t float64 [V]): `rankings` with the queries that `groups` touch ranked again.

    t2v: rank of the best of the caption's right videos among the wrong ones. v2t: rank of the video's own
    best caption among the other sets, without their captions that equal one of its own. Ties by expected
    rank. Only the rows and columns of the touched queries are computed.
    """
    t2v, v2t = rankings.t2v.copy(), rankings.v2t.copy()
    if not groups:
        return t2v, v2t
    owners = examples.video_of_caption
    right = {int(caption): np.unique(owners[group]) for group in groups for caption in group}
    for caption, scores in _rows(tiles, np.array(sorted(right))):
        t2v[caption] = _rank_of_best(scores, right[caption])
    no_rivals: dict[int, set[int]] = defaultdict(set)
    for group in groups:
        for video in set(owners[group].tolist()):
            no_rivals[video].update(group.tolist())
    order = CaptionOrder(owners, num_videos=tiles.num_videos)
    for video, scores in _columns(tiles, sorted(no_rivals)):
        v2t[video] = _rank_of_set(scores, video, sorted(no_rivals[video]), order)
    return t2v, v2t


def _rank_of_best(scores: np.ndarray, right: np.ndarray) -> float:
    """Expected place of the first right answer, ties broken at random: with m right and r wrong answers of
    one score, r / (m + 1) wrong ones stand before the first right one."""
    best = scores[right].max()
    wrong = np.delete(scores, right)
    tied = int((scores[right] == best).sum())
    return float(1 + (wrong > best).sum() + (wrong == best).sum() / (tied + 1))


def _rank_of_set(scores: np.ndarray, video: int, no_rivals: list[int], order: CaptionOrder) -> float:
    own = scores[order.captions[order.starts[video] : order.starts[video + 1]]].max()
    scores = scores.copy()
    scores[no_rivals] = -np.inf
    with_captions = np.flatnonzero(order.counts)
    sets = np.maximum.reduceat(scores[order.captions], order.starts[with_captions])
    rivals = sets[with_captions != video]
    return float(1 + (rivals > own).sum() + (rivals == own).sum() / 2)


def _rows(tiles: Tiles, captions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Scores [V] of each caption."""
    step = min(tiles.height, max(1, _SCORES // tiles.num_videos))
    for start in range(0, len(captions), step):
        chosen = torch.from_numpy(captions[start : start + step]).to(tiles.device)
        blocks = [tiles.scores(chosen, videos) for videos in tiles.video_tiles(0, tiles.num_videos)]
        yield from zip(
            captions[start : start + step].tolist(), torch.cat(blocks, 1).cpu().numpy(), strict=True
        )


def _columns(tiles: Tiles, videos: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Scores [N] of each video."""
    step = min(tiles.width, max(1, _SCORES // tiles.num_captions))
    for first in range(0, tiles.num_videos, step):
        wanted = [video for video in videos if first <= video < first + step]
        if not wanted:
            continue
        tile = tiles.video_tile(first, min(first + step, tiles.num_videos))
        columns = [video - first for video in wanted]
        blocks = []
        for start in range(0, tiles.num_captions, tiles.height):
            captions = torch.arange(start, min(start + tiles.height, tiles.num_captions), device=tiles.device)
            blocks.append(tiles.scores(captions, tile)[:, columns])
        yield from zip(wanted, torch.cat(blocks).cpu().numpy().T, strict=True)
