"""Where the frames of videos come from: what a data set and a run ask of a frame store, or of video files.

Legend: n frames of a video, numbered from 0, of which a clip takes some; pictures are RGB uint8 [H, W, 3].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from dataloaders.frame_store.jpeg import Excess


class FramesError(UserError):
    """The frames of a video cannot be read. The message names the video, its place and the reason."""


class FrameReader(Protocol):
    """What the Dataset asks for."""

    def num_frames(self, video_id: str) -> int:
        """n; 0 for a video that is not there."""
        ...

    def manifest(self, video_id: str) -> dict[str, Any] | None:
        """The manifest record of a video (docs/FRAME_STORE.md); None if nothing is recorded."""
        ...

    def iter_frames(
        self, video_id: str, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> Iterable[NDArray[np.uint8]]:
        """The pictures of the frames `indices`. `excess`: see `decode_jpeg`. Raises `FramesError`."""
        ...

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes]:
        """The same frames as JPEGs. Raises `FramesError`."""
        ...


class NoFrames:
    """A `FrameReader` without videos, for a data set of which only captions are read."""

    def num_frames(self, video_id: str) -> int:
        return 0

    def manifest(self, video_id: str) -> None:
        return None

    def iter_frames(
        self, video_id: str, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> list[NDArray[np.uint8]]:
        raise AssertionError(video_id)

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes]:
        raise AssertionError(video_id)


class FrameSource(FrameReader, Protocol):
    """What a run asks for: also which videos are there, and what is known of them."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> str:
        """What `path` is, for messages: "frame store" or "video folder"."""
        ...

    def __contains__(self, video_id: object) -> bool: ...

    def missing(self, video_ids: Iterable[str]) -> list[str]:
        """Those of `video_ids` that are not there, in their order, without repetitions."""
        ...

    def read_frames(self, video_id: str, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """The pictures of the frames `indices`. Raises `FramesError`."""
        ...
