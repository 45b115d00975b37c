"""Captions that several videos share: find them, and rank with all those videos as right answers.

N captions, V videos.

Captions are equal if they differ only in case and spaces, because the tokenizers turn them into the same
tokens. If three test videos share "A man is singing", even a perfect model ranks the right video first for
only one of the three captions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from dataloaders.examples import Examples
from engine.evaluation.ranking import Rankings
from engine.evaluation.ranking_counts import CaptionOrder
from engine.evaluation.ranks import Ranks
from engine.evaluation.similarity import Tiles

_SCORES = 1 << 24  # scores held at once


def equal_caption_groups(examples: Examples) -> list[np.ndarray]:
    """Groups of equal captions of more than one video: int64 caption numbers, in the order of the first."""
    groups = defaultdict(list)
    for number, caption in enumerate(examples.captions):
        groups[" ".join(caption.casefold().split())].append(number)
    several = (np.array(group) for group in groups.values() if len(group) > 1)
    return [group for group in several if len(set(examples.video_of_caption[group].tolist())) > 1]


@torch.inference_mode()
def ranks_with_equal_captions(
    tiles: Tiles, examples: Examples, rankings: Rankings, groups: list[np.ndarray]
) -> tuple[Ranks, Ranks]:
    """(t2v [N], v2t [V]): the ranks of `rankings`, computed again for queries in `groups`.

    t2v: the caption's best right video among the wrong ones. v2t: the video's best caption among the other
    caption sets, without captions equal to one of the video's. Only the rows and columns of queries in
    `groups` are computed.
    """
    t2v, v2t = (_copy(ranks) for ranks in (rankings.t2v, rankings.v2t))
    if not groups:
        return t2v, v2t
    owners = examples.video_of_caption
    right_videos = {int(caption): np.unique(owners[group]) for group in groups for caption in group}
    for caption, scores in _rows(tiles, np.array(sorted(right_videos))):
        _set(t2v, caption, _counts_of_best(scores, right_videos[caption]))
    equal_captions: dict[int, set[int]] = defaultdict(set)
    for group in groups:
        for video in set(owners[group].tolist()):
            equal_captions[video].update(group.tolist())
    order = CaptionOrder(owners, num_videos=tiles.num_videos)
    for video, scores in _columns(tiles, sorted(equal_captions)):
        _set(v2t, video, _counts_of_set(scores, video, sorted(equal_captions[video]), order))
    return t2v, v2t


def _copy(ranks: Ranks) -> Ranks:
    return Ranks(ranks.above.copy(), ranks.tied.copy(), ranks.right.copy())


def _set(ranks: Ranks, query: int, counts: tuple[int, int, int]) -> None:
    ranks.above[query], ranks.tied[query], ranks.right[query] = counts


def _counts_of_best(scores: np.ndarray, right: np.ndarray) -> tuple[int, int, int]:
    """The fields of `Ranks` of a query with the candidates `right`."""
    best = scores[right].max()
    wrong = np.delete(scores, right)
    return int((wrong > best).sum()), int((wrong == best).sum()), int((scores[right] == best).sum())


def _counts_of_set(
    scores: np.ndarray, video: int, equal_captions: list[int], order: CaptionOrder
) -> tuple[int, int, int]:
    """The same of the video's caption set; `equal_captions` do not count for the sets of other videos."""
    positive = scores[order.captions[order.starts[video] : order.starts[video + 1]]].max()
    scores = scores.copy()
    scores[equal_captions] = -np.inf
    with_captions = np.flatnonzero(order.counts)
    sets = np.maximum.reduceat(scores[order.captions], order.starts[with_captions])
    rivals = sets[with_captions != video]
    return int((rivals > positive).sum()), int((rivals == positive).sum()), 1


def _rows(tiles: Tiles, captions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(caption, its scores [V]) for each of `captions`."""
    step = min(tiles.height, max(1, _SCORES // tiles.num_videos))
    for start in range(0, len(captions), step):
        block = captions[start : start + step]
        numbers = torch.from_numpy(block).to(tiles.device)
        scores = [tiles.scores(numbers, videos) for videos in tiles.video_tiles(0, tiles.num_videos)]
        yield from zip(block.tolist(), torch.cat(scores, 1).cpu().numpy(), strict=True)


def _columns(tiles: Tiles, videos: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(video, its scores [N]) for each of `videos`."""
    step = min(tiles.width, max(1, _SCORES // tiles.num_captions))
    for first in range(0, tiles.num_videos, step):
        block = [video for video in videos if first <= video < first + step]
        if not block:
            continue
        tile = tiles.video_tile(first, min(first + step, tiles.num_videos))
        columns = [video - first for video in block]
        scores = []
        for start in range(0, tiles.num_captions, tiles.height):
            captions = torch.arange(start, min(start + tiles.height, tiles.num_captions), device=tiles.device)
            scores.append(tiles.scores(captions, tile)[:, columns])
        yield from zip(block, torch.cat(scores).cpu().numpy().T, strict=True)
