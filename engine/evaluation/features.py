"""What the encoders make of a split, and checks that name the captions and videos at fault.

N captions, V videos, F frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

NAMED = 10  # ids that a message lists
_CHUNK = 4096  # rows looked at together


class Names(Protocol):
    """What captions or videos are called in messages."""

    def __getitem__(self, index: int, /) -> str: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Features:
    """text [N, D], video [V, D], frames [V, F, D] or None, frame_mask bool [V, F] or None (all real)."""

    text: Tensor
    video: Tensor
    frames: Tensor | None = None
    frame_mask: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.text.ndim == 2 and self.video.ndim == 2 and self.text.shape[1] == self.video.shape[1]
        assert self.frames is None or self.frames.shape[::2] == self.video.shape
        assert self.frame_mask is None or self.frames is not None
        assert self.frame_mask is None or self.frame_mask.shape == self.frames.shape[:2]  # type: ignore[union-attr]


def check_features(
    features: Features,
    video_of_caption: np.ndarray,
    *,
    captions: Names | None = None,
    video_ids: Names | None = None,
) -> list[str]:
    """Raise `UserError` on what cannot be ranked; return a remark on each kind of odd thing that can.

    Refused: a split without captions or videos, a caption without a video, features that are not finite.
    Remarked on: zero vectors (their similarity with anything is 0), videos without captions (candidates, but
    no queries). Names come from `captions` and `video_ids`, by default the numbers.
    """
    if not len(features.text) or not len(features.video):
        raise UserError(f"nothing to rank: {len(features.text)} captions, {len(features.video)} videos")
    if len(video_of_caption) != len(features.text):
        raise UserError(
            f"{len(features.text)} captions, but {len(video_of_caption)} say which video is theirs"
        )
    homeless = np.flatnonzero((video_of_caption < 0) | (video_of_caption >= len(features.video)))
    if len(homeless):
        raise UserError(f"captions without a video: {_names(homeless, captions)}")
    remarks = []
    for what, rows, names in (
        ("captions", features.text, captions),
        ("videos", features.video, video_ids),
        ("frames of videos", features.frames, video_ids),
    ):
        if rows is not None:
            mask = features.frame_mask if rows is features.frames else None
            remarks += _check_rows(what, rows, mask, names)
    silent = np.setdiff1d(np.arange(len(features.video)), video_of_caption)
    if len(silent):
        remarks.append(f"videos without a caption, ranked as candidates only: {_names(silent, video_ids)}")
    return remarks


def _check_rows(what: str, rows: Tensor, mask: Tensor | None, names: Names | None) -> list[str]:
    bad, zero = [], []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        finite = torch.isfinite(chunk).flatten(1).all(dim=1)
        bad.append((~finite).cpu().numpy())
        empty = (chunk == 0).all(dim=-1)
        if mask is not None:
            empty &= mask[start : start + _CHUNK]  # padding is zero by nature
        zero.append(empty.flatten(1).any(dim=1).cpu().numpy() if empty.ndim > 1 else empty.cpu().numpy())
    if (found := np.flatnonzero(np.concatenate(bad))).size:
        raise UserError(
            f"features of {what} are not finite: {_names(found, names)}; the model has diverged, or the "
            "features were made badly"
        )
    found = np.flatnonzero(np.concatenate(zero))
    return [f"zero vectors among the features of {what}: {_names(found, names)}"] if found.size else []


def _names(positions: np.ndarray, names: Names | None) -> str:
    """How many, and the first of them by name."""
    shown = [repr(names[int(i)]) if names is not None else str(int(i)) for i in positions[:NAMED]]
    more = ", ..." if len(positions) > NAMED else ""
    return f"{len(positions)} ({', '.join(shown)}{more})"
