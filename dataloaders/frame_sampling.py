"""Choosing the stored frames of a clip. n stored frames, F frames of the clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError

FRAME_SAMPLES = ("uniform", "random", "uniform_random")
SHORTEST_DYNAMIC_CLIP = 3


class TooFewFramesError(UserError):
    """A video has fewer stored frames than `random` sampling must choose."""


def even_frames(num_stored: int, num_frames: int) -> NDArray[np.int64]:
    """Indices [F] of stored frames, equally spaced, the first one included; frames repeat if n < F."""
    assert num_stored > 0 and num_frames > 0
    return np.linspace(0, num_stored, num_frames, endpoint=False).astype(np.int64)


def sample_frame_indices(
    num_stored: int, num_frames: int, *, frame_sample: str, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices [F] of stored frames, in order, all in 0..n-1.

    - `uniform`: `even_frames`.
    - `random`: F of n without replacement. Raises `TooFewFramesError` if n < F.
    - `uniform_random`: one random frame of each of F equal segments; frames repeat if n < F.

    Raises `UserError` for any other `frame_sample`.
    """
    assert num_stored > 0 and num_frames > 0
    if frame_sample == "uniform":
        return even_frames(num_stored, num_frames)
    if frame_sample == "random":
        if num_stored < num_frames:
            raise TooFewFramesError(
                f"--frame_sample random cannot choose {num_frames} of {num_stored} stored frames:"
                f" lower --max_frames to {num_stored} or use --frame_sample uniform"
            )
        return np.sort(rng.choice(num_stored, num_frames, replace=False)).astype(np.int64)
    if frame_sample == "uniform_random":
        bounds = np.arange(num_frames + 1) * num_stored // num_frames
        return rng.integers(bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1)).astype(np.int64)
    raise UserError(f"--frame_sample {frame_sample}: choose from {', '.join(FRAME_SAMPLES)}")


def frames_within(manifest: Mapping[str, Any] | None, stored: int, seconds: float) -> int:
    """How many of the `stored` frames of a video are in its first `seconds`, at least 1.

    All of them if the manifest does not tell the times of the frames.
    """
    times = (manifest or {}).get("times")
    if not isinstance(times, list) or len(times) != stored:
        return stored
    return max(1, sum(time < times[0] + seconds for time in times))


def dynamic_length(duration: float, max_frames: int, *, factor: float) -> int:
    """Number of frames for a clip of `duration` seconds: min(max(int(duration * factor), 3), max_frames)."""
    return min(max(int(duration * factor), SHORTEST_DYNAMIC_CLIP), max_frames)
