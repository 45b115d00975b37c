"""Which frames of a video are taken, and how to take them from any decoder that gives its frames in order.

Legend: N frames that decode (inside the window, if there is one), n frames wanted. Positions count frames in
display order from 0. Times are seconds from the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from video.pictures import Encoded, Picture

Encode = Callable[[Picture], Encoded]
# The frames of a decoder, one after another: seconds from the first frame (None: not known), picture.
TimedFrames = Iterator[tuple["float | None", "Picture"]]
# Positions first <= p < last.
Range = tuple[int, int]


class VideoError(Exception):
    """A video gives no frames. `reason` is the kind of error, `message` the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Window:
    """The part of a video to take frames from: `start` <= time < `end`."""

    start: float = 0.0
    end: float = float("inf")

    @property
    def is_whole_video(self) -> bool:
        """Whether this is the whole video."""
        return self.start <= 0 and self.end == float("inf")

    def __str__(self) -> str:
        return f"seconds {self.start:g} to {'the end' if self.end == float('inf') else format(self.end, 'g')}"


@dataclass
class Sample:
    """The n frames taken from a video.

    `indices`: their positions in the whole file. `frames`: N. `decoder`: program and version. `by_index`:
    only the needed frames were decoded. `moved`: the largest distance of a frame from its even position, in
    frames. `rotation`: degrees clockwise that were applied. `damaged`: packets that did not decode. `fps`,
    `duration` (seconds): the values of the header.
    """

    indices: list[int]
    pictures: list[Encoded]
    frames: int
    decoder: str = ""
    by_index: bool = False
    moved: int = 0
    codec: str = ""
    fps: float | None = None
    duration: float | None = None
    rotation: int = 0
    damaged: int = 0


@dataclass
class _Pass:
    """The result of one pass over all frames: the positions inside the window, and the pictures taken."""

    range: Range
    pictures: dict[int, Encoded] = field(default_factory=dict)


def spread_positions(frames: int, wanted: int) -> list[int]:
    """`wanted` positions spread evenly over 0..frames-1, in order, first and last included.

    If there are fewer frames than wanted, positions repeat. A single position is the middle.
    """
    if wanted == 1:
        return [(frames - 1) // 2]
    return [int(position) for position in np.linspace(0, frames - 1, wanted).round()]


def positions_within(positions: Range, wanted: int) -> list[int]:
    """`wanted` positions spread evenly over a range that is not empty."""
    first, last = positions
    return [first + position for position in spread_positions(last - first, wanted)]


def sample_in_order(
    frames: Callable[[], TimedFrames], *, wanted: int, encode: Encode, window: Window, guess: Range | None
) -> Sample:
    """`wanted` frames, by decoding all frames in order; each call of `frames()` starts at the first frame.

    `guess` is the expected range of the window's frames. If it is wrong or None, a second pass takes the
    pictures by the true count. Raises `VideoError` if nothing decodes.
    """
    seen = _one_pass(frames(), positions=_positions(guess, wanted), encode=encode, window=window)
    if seen.range[0] >= seen.range[1]:
        raise VideoError("no frames", _why_none(seen.range, window))
    if seen.range != guess:
        again = _one_pass(frames(), positions=_positions(seen.range, wanted), encode=encode, window=window)
        if again.range != seen.range:
            raise VideoError("no frames", "decoding it twice gives different numbers of frames")
        seen = again
    indices = positions_within(seen.range, wanted)
    return Sample(indices, [seen.pictures[index] for index in indices], frames=seen.range[1] - seen.range[0])


def _positions(guess: Range | None, wanted: int) -> set[int]:
    return set(positions_within(guess, wanted)) if guess is not None and guess[0] < guess[1] else set()


def _one_pass(frames: TimedFrames, *, positions: set[int], encode: Encode, window: Window) -> _Pass:
    first, count = 0, 0
    pictures: dict[int, Encoded] = {}
    for count, (time, frame) in enumerate(frames, start=1):
        if not window.is_whole_video:
            if time is None:
                raise VideoError("no frames", "its frames carry no times, so no part can be cut out")
            if time >= window.end:
                return _Pass((first, count - 1), pictures)
            first += time < window.start
        if count - 1 in positions:
            pictures[count - 1] = encode(frame)
    return _Pass((first, count), pictures)


def _why_none(seen: Range, window: Window) -> str:
    if seen[1]:
        return f"no frame between {window.start:g} s and {window.end:g} s"
    return "no frame of the file decodes"
