"""Where a long video is cut into moments: after some seconds at most, at a change of shot where there is one.

A change of shot shows in the colours of frames that are decoded anyway. m frames, C numbers of a histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.errors import UserError

EVERY = 24.0  # seconds of a moment at most: 12 frames, one every 2 seconds
CUT_ABOVE = 120.0  # seconds from which a video is a sequence of moments
SHORTEST = 1.0  # of --every
_CHANGE = 0.5  # distance of two frames' histograms, 0 to 1, from which there may be another shot
_BINS = (8, 4, 4)  # of hue, saturation and brightness


@dataclass(frozen=True)
class Cutting:
    """`every`: seconds of a moment at most; `above`: longer videos are cut (0: none)."""

    every: float = EVERY
    above: float = CUT_ABOVE

    def __post_init__(self) -> None:
        if not SHORTEST <= self.every < float("inf"):
            raise UserError(f"--every {self.every:g}: give seconds, {SHORTEST:g} or more")
        if not 0 <= self.above < float("inf"):
            raise UserError(f"--cut_above {self.above:g}: give seconds, 0 or more; 0 cuts no video")

    @property
    def limit(self) -> float:
        """Seconds above which a video is cut."""
        return self.above or float("inf")

    def distance(self, frames: int) -> float:
        """Seconds between two frames, of which a moment has at most `frames`; never under one second."""
        return max(1.0, self.every / frames)


def colours(picture: np.ndarray) -> np.ndarray:
    """The histogram [C] of an RGB picture, float32 with sum 1."""
    small = cv2.resize(picture, (64, 36), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, _BINS, [0, 180, 0, 256, 0, 256]).ravel()
    return np.asarray(counts / counts.sum(), dtype=np.float32)


def histograms(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """[m, C] of RGB pictures."""
    rows = [colours(picture) for picture in pictures]
    return np.stack(rows) if rows else np.zeros((0, int(np.prod(_BINS))), np.float32)


def changes(histograms: np.ndarray) -> np.ndarray:
    """[m]: how much each frame differs from the one before it, 0 to 1; the first: 0. `histograms` [m, C]."""
    steps = np.abs(np.diff(histograms, axis=0)).sum(axis=1) / 2
    return np.concatenate([np.zeros(min(1, len(histograms))), steps])


def cut(times: Sequence[float], differ: np.ndarray, *, every: float) -> list[int]:
    """The first frame of each moment. `times` [m] ascend; `differ` [m] is that of `changes`.

    A moment ends before the frame in its second half that differs most from the one before it, if that is a
    change of shot; else after `every` seconds.
    """
    starts, first = [], 0
    while first < len(times):
        starts.append(first)
        last = int(np.searchsorted(times, times[first] + every - 1e-6))
        half = int(np.searchsorted(times, times[first] + every / 2))
        if last >= len(times):
            break
        half = max(first + 1, half)
        best = half + int(np.argmax(differ[half : last + 1])) if half <= last else last
        first = best if differ[best] >= _CHANGE else max(last, first + 1)
    return starts
