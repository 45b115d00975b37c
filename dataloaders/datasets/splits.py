"""Which videos of a split are in the frame store. V videos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np

from dataloaders.datasets.chvtt import STORE_PREFIX
from dataloaders.datasets.files import name_some
from dataloaders.examples import Examples, PackedStrings

_PROBES = 100


class VideoIndex(Protocol):
    """The part of a frame store that says what it holds."""

    def __contains__(self, video_id: str) -> bool: ...

    def missing(self, video_ids: Iterable[str]) -> Iterable[str]: ...


@dataclass(frozen=True)
class MissingVideos:
    """The videos of a split that are absent from the store."""

    ids: tuple[str, ...]
    total: int

    def __bool__(self) -> bool:
        return bool(self.ids)

    @property
    def count(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return f"{self.count} of {self.total} videos are absent from the frame store: {name_some(self.ids)}"


def exclude_missing(examples: Examples, store: VideoIndex) -> tuple[Examples, MissingVideos]:
    """The examples whose videos the store has, and what was left out. The caller decides whether that is
    allowed."""
    absent = set(store.missing(examples.video_ids))
    keep = np.fromiter((video_id not in absent for video_id in examples.video_ids), bool, examples.num_videos)
    left_out = tuple(video_id for video_id in examples.video_ids if video_id in absent)
    return examples.keep_videos(keep), MissingVideos(left_out, examples.num_videos)


def match_store_ids(examples: Examples, store: VideoIndex) -> Examples:
    """CHVTT examples under the ids that their store uses.

    Published stores name a video `Video{docid}`; stores made from a list of bare docids name it `{docid}`.
    The first ids decide: where the store has none of them with the prefix, and some without, bare ids are
    taken.
    """
    probes = list(islice(examples.video_ids, _PROBES))
    if any(video_id in store for video_id in probes):
        return examples
    if not any(video_id.removeprefix(STORE_PREFIX) in store for video_id in probes):
        return examples
    bare = PackedStrings.from_iterable(video_id.removeprefix(STORE_PREFIX) for video_id in examples.video_ids)
    return replace(examples, video_ids=bare)
