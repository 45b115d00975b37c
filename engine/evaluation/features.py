"""The features of a split, and checks that name the bad captions and videos.

N captions, V videos, W words, F frames, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from modules.numerics import SHORTEST, at_least_float32

NAMED = 10  # the most ids that a message lists
_CHUNK = 4096  # rows checked at once


class Names(Protocol):
    """The names of captions or videos in messages."""

    def __getitem__(self, index: int, /) -> str: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Features:
    """The features of a split, those that its head reads (`SimilarityHead`), and always `text` and `video`.

    text [N, D], words [N, W, D], word_mask bool [N, W]; video [V, D], frames [V, F, D], frame_mask bool
    [V, F]. None: not there; of a mask: no padding.
    """

    text: Tensor
    video: Tensor
    frames: Tensor | None = None
    frame_mask: Tensor | None = None
    words: Tensor | None = None
    word_mask: Tensor | None = None

    def __post_init__(self) -> None:
        assert shapes_match(self.text, self.video, self.frames, self.frame_mask)
        assert parts_match(self.text, self.words, self.word_mask)

    def of(self, names: Iterable[str], rows: Tensor | slice) -> dict[str, Tensor]:
        """The features `names` of some captions or videos, without those that are None."""
        tensors = {name: getattr(self, name) for name in names}
        return {name: tensor[rows] for name, tensor in tensors.items() if tensor is not None}


def shapes_match(text: Tensor, video: Tensor, frames: Tensor | None, frame_mask: Tensor | None) -> bool:
    """Whether the four have the shapes of `Features`."""
    if text.ndim != 2 or video.ndim != 2 or text.shape[1] != video.shape[1]:
        return False
    return parts_match(video, frames, frame_mask)


def parts_match(rows: Tensor, parts: Tensor | None, mask: Tensor | None) -> bool:
    """Whether `parts` [R, P, D] and their mask [R, P] belong to `rows` [R, D]."""
    if parts is None:
        return mask is None
    if parts.ndim != 3 or parts.shape[::2] != rows.shape:
        return False
    return mask is None or mask.shape == parts.shape[:2]


def check_features(
    features: Features,
    video_of_caption: np.ndarray,
    *,
    captions: Names | None = None,
    video_ids: Names | None = None,
) -> list[str]:
    """Raise `UserError` if the features cannot be ranked. Otherwise return remarks on what is unusual.

    Errors: no captions or no videos, a caption without a video, features that are not finite or too long.
    Remarks: zero vectors (their similarity with anything is 0), videos without captions (candidates, but no
    queries).
    Messages use the names in `captions` and `video_ids`, or numbers without them.
    """
    if not len(features.text) or not len(features.video):
        raise UserError(f"nothing to rank: {len(features.text)} captions, {len(features.video)} videos")
    if len(video_of_caption) != len(features.text):
        raise UserError(
            f"{len(features.text)} captions, but the list of their videos has {len(video_of_caption)} entries"
        )
    without_video = np.flatnonzero((video_of_caption < 0) | (video_of_caption >= len(features.video)))
    if len(without_video):
        raise UserError(f"captions without a video: {_names(without_video, captions)}")
    remarks = []
    for what, rows, mask, names in (
        ("captions", features.text, None, captions),
        ("words of captions", features.words, features.word_mask, captions),
        ("videos", features.video, None, video_ids),
        ("frames of videos", features.frames, features.frame_mask, video_ids),
    ):
        if rows is not None:
            remarks += _check_rows(what, rows, mask, names)
    without_caption = np.setdiff1d(np.arange(len(features.video)), video_of_caption)
    if len(without_caption):
        remarks.append(
            f"videos without a caption, which are candidates only: {_names(without_caption, video_ids)}"
        )
    return remarks


def _check_rows(what: str, rows: Tensor, mask: Tensor | None, names: Names | None) -> list[str]:
    """Raise `UserError` if `rows` are not finite; a remark if some are zero. `mask`: the real ones."""
    not_finite, zero = [], []
    for start in range(0, len(rows), _CHUNK):
        chunk = at_least_float32(rows[start : start + _CHUNK])
        lengths = torch.linalg.vector_norm(chunk, dim=-1)  # not finite also if the squares overflow
        is_zero = lengths < SHORTEST
        if mask is not None:
            is_zero &= mask[start : start + _CHUNK]  # padding is always zero
        not_finite.append((~torch.isfinite(lengths)).reshape(len(chunk), -1).any(dim=1).cpu().numpy())
        zero.append(is_zero.reshape(len(chunk), -1).any(dim=1).cpu().numpy())
    if (positions := np.flatnonzero(np.concatenate(not_finite))).size:
        raise UserError(
            f"features of {what} are not finite: {_names(positions, names)}; the model has diverged, or the "
            "features were computed wrongly"
        )
    positions = np.flatnonzero(np.concatenate(zero))
    return (
        [f"zero vectors among the features of {what}: {_names(positions, names)}"] if positions.size else []
    )


def _names(positions: np.ndarray, names: Names | None) -> str:
    """How many there are, and the names of the first."""
    shown = [repr(names[int(i)]) if names is not None else str(int(i)) for i in positions[:NAMED]]
    more = ", ..." if len(positions) > NAMED else ""
    return f"{len(positions)} ({', '.join(shown)}{more})"
