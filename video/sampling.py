"""Which frames of a video are taken, and taking them from any decoder that gives its frames in order.

Legend: N frames that decode (inside the window, where one is given), n frames wanted; positions count frames
in the order in which they are shown, from 0; times are seconds from the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from video.pictures import Encoded, Picture

Encode = Callable[[Picture], Encoded]
# What a decoder gives one after another: seconds from the first frame (None: not known), and the picture.
TimedFrames = Iterator[tuple["float | None", "Picture"]]
# Positions first <= p < last.
Range = tuple[int, int]


class VideoError(Exception):
    """A video gives no frames; `reason` is the class of the fault, `message` says more."""

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
    def whole(self) -> bool:
        """Whether this is the whole video."""
        return self.start <= 0 and self.end == float("inf")

    def __str__(self) -> str:
        return f"seconds {self.start:g} to {'the end' if self.end == float('inf') else format(self.end, 'g')}"


@dataclass
class Sample:
    """The n frames picked from a video.

    `indices`: their positions in the whole file; `frames`: N; `decoder`: program and version; `by_index`:
    whether frames that were not needed were left undecoded; `moved`: how far, in frames, one lies at most
    from its even position; `rotation`: degrees clockwise applied; `damaged`: packets that did not decode;
    `fps`, `duration` (seconds): as the header has them.
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
    """What one pass over all frames saw: the positions inside the window, and the pictures that were kept."""

    found: Range
    kept: dict[int, Encoded] = field(default_factory=dict)


def spread_positions(frames: int, wanted: int) -> list[int]:
    """`wanted` positions spread evenly over 0..frames-1, first and last included, never decreasing.

    With fewer frames than wanted, positions repeat. One position alone is the middle.
    """
    if wanted == 1:
        return [(frames - 1) // 2]
    return [int(position) for position in np.linspace(0, frames - 1, wanted).round()]


def positions_within(found: Range, wanted: int) -> list[int]:
    """The wanted positions of a range of positions, which must hold one at least."""
    first, last = found
    return [first + position for position in spread_positions(last - first, wanted)]


def sample_in_order(
    frames: Callable[[], TimedFrames], *, wanted: int, encode: Encode, window: Window, guess: Range | None
) -> Sample:
    """`wanted` frames out of all, by decoding in order; `frames()` starts from the first frame each time.

    `guess` is where the window's frames are thought to lie; where it is wrong, or None, a second pass takes
    the pictures by the true count. Raises `VideoError` where nothing decodes.
    """
    seen = _one_pass(frames(), positions=_positions(guess, wanted), encode=encode, window=window)
    if seen.found[0] >= seen.found[1]:
        raise VideoError("no frames", _why_none(seen.found, window))
    if seen.found != guess:
        again = _one_pass(frames(), positions=_positions(seen.found, wanted), encode=encode, window=window)
        if again.found != seen.found:
            raise VideoError("no frames", "decoding it twice gives different numbers of frames")
        seen = again
    indices = positions_within(seen.found, wanted)
    return Sample(indices, [seen.kept[index] for index in indices], frames=seen.found[1] - seen.found[0])


def _positions(found: Range | None, wanted: int) -> set[int]:
    return set(positions_within(found, wanted)) if found is not None and found[0] < found[1] else set()


def _one_pass(frames: TimedFrames, *, positions: set[int], encode: Encode, window: Window) -> _Pass:
    first, count = 0, 0
    kept: dict[int, Encoded] = {}
    for count, (time, frame) in enumerate(frames, start=1):
        if not window.whole:
            if time is None:
                raise VideoError("no frames", "its frames carry no times, so no part can be cut out")
            if time >= window.end:
                return _Pass((first, count - 1), kept)
            first += time < window.start
        if count - 1 in positions:
            kept[count - 1] = encode(frame)
    return _Pass((first, count), kept)


def _why_none(found: Range, window: Window) -> str:
    if found[1]:
        return f"no frame between {window.start:g} s and {window.end:g} s"
    return "no frame of the file decodes"
