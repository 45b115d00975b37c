"""Parts of a split: the videos that the frame store has, and those that are held out of training.

V videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np

from common.errors import UserError
from common.names import unicode_forms
from dataloaders.datasets.files import name_some
from dataloaders.examples import Examples, PackedStrings

_PROBES = 100
_SHOWN_FAULTS = 3
_HELD_OUT_STREAM = 0x4E7D  # keeps this draw independent of others with the same seed


class VideoIndex(Protocol):
    """The methods of a frame store that this file uses."""

    def __contains__(self, video_id: str) -> bool: ...

    def missing(self, video_ids: Iterable[str]) -> Iterable[str]: ...


class ManifestReader(Protocol):
    """The method of a frame store that tells where the frames of a video come from."""

    def manifest(self, video_id: str) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class MissingVideos:
    """The videos of a split that are absent from the store.

    `other_form`: how many of them the store has under the same name in another Unicode form. `kind`: what
    they are missing from. `faults`: why files of some of them do not decode.
    """

    ids: tuple[str, ...]
    total: int
    other_form: int = 0
    kind: str = "frame store"
    faults: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ids)

    @property
    def count(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        text = f"{self.count} of {self.total} videos are absent from the {self.kind}: {name_some(self.ids)}"
        if self.faults:
            text += f"; {len(self.faults)} of them do not decode ({name_some(self.faults, _SHOWN_FAULTS)})"
        if self.other_form:
            text += (
                f"; it has {self.other_form} of them with the name in another Unicode form:"
                " build it with a list of the ids (--json_path)"
            )
        return text


def exclude_missing(examples: Examples, store: VideoIndex) -> tuple[Examples, MissingVideos]:
    """The examples whose videos the store has, and the missing videos.

    The caller decides whether missing videos are allowed.
    """
    absent = set(store.missing(examples.video_ids))
    keep = np.fromiter((video_id not in absent for video_id in examples.video_ids), bool, examples.num_videos)
    missing = tuple(video_id for video_id in examples.video_ids if video_id in absent)
    other_form = sum(has_other_form(video_id, store) for video_id in missing)
    kind = getattr(store, "kind", MissingVideos.kind)
    return examples.keep_videos(keep), MissingVideos(missing, examples.num_videos, other_form, kind)


def has_other_form(video_id: str, store: VideoIndex) -> bool:
    """Whether the store has a video under the same name in another Unicode form (NFC, NFD)."""
    return any(form in store for form in unicode_forms(video_id)[1:])


def with_store_durations(examples: Examples, store: ManifestReader) -> Examples:
    """The examples with durations from the store's manifests where the annotations have none.

    If the annotations have none at all, every video must have one in the store: else nothing changes.
    """
    known = examples.durations
    durations = np.full(examples.num_videos, np.nan, np.float32) if known is None else known.copy()
    for video in np.flatnonzero(np.isnan(durations)).tolist():
        durations[video] = _stored_seconds(store.manifest(examples.video_ids[video]) or {})
    if known is None and np.isnan(durations).any():
        return examples
    return replace(examples, durations=durations)


def _stored_seconds(record: dict[str, Any]) -> float:
    """The length of what was stored, which may be a part of its file; NaN if the manifest does not say."""
    end, times = record.get("decoded_until"), record.get("times")
    if isinstance(end, int | float) and isinstance(times, list) and times:
        return float(end) - float(times[0])
    duration = record.get("duration")
    return float(duration) if isinstance(duration, int | float) else float("nan")


def is_without_prefix(video_ids: Iterable[str], store: VideoIndex, *, prefix: str) -> bool:
    """Whether the store has none of the first 100 ids with the prefix, but some without it."""
    probes = list(islice(video_ids, _PROBES)) if prefix else []
    if any(video_id in store for video_id in probes):
        return False
    return any(video_id.removeprefix(prefix) in store for video_id in probes)


def match_store_ids(examples: Examples, store: VideoIndex, *, prefix: str) -> Examples:
    """Examples with the ids that their store uses: with `prefix`, as the reader gives them, or without it.

    So CHVTT's published stores name a video `Video{docid}`, and stores made from a list of bare docids
    `{docid}`. `is_without_prefix` decides for all ids.
    """
    if not is_without_prefix(examples.video_ids, store, prefix=prefix):
        return examples
    bare = PackedStrings.from_iterable(video_id.removeprefix(prefix) for video_id in examples.video_ids)
    return replace(examples, video_ids=bare)


def hold_out(examples: Examples, *, share: float, seed: int) -> tuple[Examples, Examples]:
    """Split the training videos for `--select_on held_out`: (videos to train on, held-out videos).

    A `share` of the videos is held out, with all their captions, at least one video on each side. The draw
    depends on `seed` and the ids alone, not on their order in the file. Raises `UserError` if there are fewer
    than two videos.
    """
    if examples.num_videos < 2:
        raise UserError(f"--select_on held_out: needs at least 2 training videos, not {examples.num_videos}")
    count = min(max(round(share * examples.num_videos), 1), examples.num_videos - 1)
    by_id = np.argsort(np.asarray(list(examples.video_ids)), kind="stable")
    is_held_out = np.zeros(examples.num_videos, dtype=bool)
    rng = np.random.default_rng([seed, _HELD_OUT_STREAM])
    is_held_out[by_id[rng.choice(examples.num_videos, count, replace=False)]] = True
    return examples.keep_videos(~is_held_out), examples.keep_videos(is_held_out)


def spread(items: Sequence[str] | PackedStrings, number: int | None) -> list[str]:
    """`number` of `items`, evenly spread from the first on; all of them if it is None or too large."""
    if number is None or number >= len(items):
        return list(items)
    return [items[i * len(items) // number] for i in range(number)]
