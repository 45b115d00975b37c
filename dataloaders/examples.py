"""Captions and videos of one split, in packed arrays. V videos, N captions.

DataLoader workers share these arrays with the parent process. A Python list of strings would be copied into
every worker page by page, because reading a string writes its reference count.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray


class PackedStrings:
    """An immutable sequence of strings in two arrays: UTF-8 bytes, and the offset of each string.

    A lone surrogate (half of a character; JSON escapes allow it) becomes "?".
    """

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        assert offsets.ndim == 1 and len(offsets) >= 1 and offsets[0] == 0 and offsets[-1] == len(data)
        self._data = data
        self._offsets = offsets

    @classmethod
    def from_iterable(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack `strings` in their order."""
        packer = StringPacker()
        for string in strings:
            packer.append(string)
        return packer.packed()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        index = int(index) % len(self)
        return self._data[self._offsets[index] : self._offsets[index + 1]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: NDArray[np.integer]) -> PackedStrings:
        """The strings at `indices`, in a new object."""
        return PackedStrings.from_iterable(self[int(index)] for index in indices)


class StringPacker:
    """Packs strings as they come, so that they are never all in memory as objects."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._offsets = array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def append(self, string: str) -> None:
        data = self._data
        data += string.encode("utf-8", "replace")
        self._offsets.append(len(data))

    def packed(self) -> PackedStrings:
        """All strings so far. Nothing can be appended after that."""
        return PackedStrings(
            np.frombuffer(self._data, dtype=np.uint8), np.frombuffer(self._offsets, dtype=np.int64)
        )


@dataclass(frozen=True)
class Examples:
    """One split: captions, videos, and the video of each caption.

    `tags` [N] belong to captions; only CHVTT pre-training has them. `durations` [V] are in seconds, NaN if
    unknown. `languages` [N] are positions in `common.languages.LANGUAGES`; None: all are of one language.
    """

    video_ids: PackedStrings  # [V] ids of the frame store
    captions: PackedStrings  # [N]
    video_of_caption: NDArray[np.int64]  # [N] position in video_ids
    tags: PackedStrings | None = None
    durations: NDArray[np.float32] | None = None
    languages: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        assert self.video_of_caption.shape == (len(self.captions),)
        assert self.languages is None or self.languages.shape == (len(self.captions),)
        assert self.tags is None or len(self.tags) == len(self.captions)
        assert self.durations is None or self.durations.shape == (len(self.video_ids),)
        if len(self.captions):
            assert 0 <= self.video_of_caption.min() <= self.video_of_caption.max() < len(self.video_ids)

    @property
    def num_videos(self) -> int:
        return len(self.video_ids)

    @property
    def num_captions(self) -> int:
        return len(self.captions)

    def video_id_of(self, caption: int) -> str:
        """Store id of the video that a caption belongs to."""
        return self.video_ids[int(self.video_of_caption[caption])]

    def keep_videos(self, keep: NDArray[np.bool_]) -> Examples:
        """The videos for which `keep` [V] is True, with their captions, in the same order."""
        assert keep.shape == (self.num_videos,)
        if keep.all():
            return self
        kept_captions = np.flatnonzero(keep[self.video_of_caption])
        new_position = np.cumsum(keep) - 1
        return Examples(
            video_ids=self.video_ids.take(np.flatnonzero(keep)),
            captions=self.captions.take(kept_captions),
            video_of_caption=new_position[self.video_of_caption[kept_captions]].astype(np.int64),
            tags=None if self.tags is None else self.tags.take(kept_captions),
            durations=None if self.durations is None else self.durations[keep],
            languages=None if self.languages is None else self.languages[kept_captions],
        )

    def in_language(self, language: int) -> Examples:
        """All videos, with the captions of one language, in the same order."""
        assert self.languages is not None
        kept = np.flatnonzero(self.languages == language)
        return replace(
            self,
            captions=self.captions.take(kept),
            video_of_caption=self.video_of_caption[kept],
            tags=None if self.tags is None else self.tags.take(kept),
            languages=self.languages[kept],
        )


def merge_languages(parts: Sequence[Examples]) -> Examples:
    """The captions of one split in several languages, those of language 0 first. `parts` [language].

    The videos are those of any part, in the order in which they first appear. Tags are in all parts or in
    none. A duration is that of the first part that knows it.
    """
    first = parts[0]
    if any(list(part.video_ids) != list(first.video_ids) for part in parts[1:]):
        parts = _with_all_videos(parts)
        first = parts[0]
    tags = [part.tags for part in parts if part.tags is not None]
    assert len(tags) in (0, len(parts))
    sizes = [part.num_captions for part in parts]
    return Examples(
        video_ids=first.video_ids,
        captions=PackedStrings.from_iterable(chain.from_iterable(part.captions for part in parts)),
        video_of_caption=np.concatenate([part.video_of_caption for part in parts]),
        tags=PackedStrings.from_iterable(chain.from_iterable(tags)) if tags else None,
        durations=first.durations,
        languages=np.repeat(np.arange(len(parts), dtype=np.uint8), sizes),
    )


def _with_all_videos(parts: Sequence[Examples]) -> list[Examples]:
    """The parts, each with the videos of all of them."""
    positions: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for part in parts:
        known = [math.nan] * part.num_videos if part.durations is None else part.durations.tolist()
        for video_id, duration in zip(part.video_ids, known, strict=True):
            positions.setdefault(video_id, len(positions))
            if math.isnan(seconds.get(video_id, math.nan)):
                seconds[video_id] = duration
    video_ids = PackedStrings.from_iterable(positions)
    durations = np.array([seconds[video_id] for video_id in positions], np.float32)
    return [
        replace(
            part,
            video_ids=video_ids,
            video_of_caption=np.array([positions[video_id] for video_id in part.video_ids], np.int64)[
                part.video_of_caption
            ],
            durations=None if np.isnan(durations).all() else durations,
        )
        for part in parts
    ]


class ExamplesBuilder:
    """Collects captions one by one. Videos are numbered by first appearance."""

    def __init__(self) -> None:
        self._position: dict[str, int] = {}
        self._durations = array("f")
        self._captions, self._tags = StringPacker(), StringPacker()
        self._video_of_caption = array("q")

    def add(
        self, video_id: str, caption: str, *, tag: str | None = None, duration: float | None = None
    ) -> None:
        """Add one caption with its tag. The duration counts only when the video first appears."""
        position = self._position.setdefault(video_id, len(self._position))
        if position == len(self._durations):
            self._durations.append(math.nan if duration is None else duration)
        self._captions.append(caption)
        self._video_of_caption.append(position)
        if tag is not None:
            self._tags.append(tag)

    def build(self) -> Examples:
        """Everything added so far; nothing can be added after that. Either all captions have tags or none
        has."""
        assert len(self._tags) in (0, len(self._captions))
        durations = np.array(self._durations, dtype=np.float32)
        return Examples(
            video_ids=PackedStrings.from_iterable(self._position),
            captions=self._captions.packed(),
            video_of_caption=np.array(self._video_of_caption, dtype=np.int64),
            tags=self._tags.packed() if len(self._tags) else None,
            durations=None if np.isnan(durations).all() else durations,
        )
