"""Which frames of a video are taken, and how to take them from any decoder that gives its frames in order.

Legend: N frames that decode (inside the window, if there is one), n frames wanted. Positions count frames in
display order from 0. Times are seconds from the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from video.clip_ids import holds_part_alone
from video.deinterlacing import InterlacedFrame
from video.pictures import Encoded, Picture

# A frame of a decoder, and what makes its stored picture.
Frame: TypeAlias = "Picture | InterlacedFrame"
EncodeFrame = Callable[[Any], Encoded]
# The frames of a decoder, one after another: seconds from the first frame (None: not known), frame.
TimedFrames = Iterator[tuple["float | None", "Frame"]]
# Positions first <= p < last.
Range = tuple[int, int]
# Some of the n wanted frames, by number from 0; None: all.
Numbers: TypeAlias = "Sequence[int] | None"


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

    def cut_to(self, seconds: float) -> Window:
        """The first `seconds` of the part."""
        return Window(self.start, min(self.end, self.start + seconds))

    def within(self, length: float | None) -> Window:
        """The part to take from a file that is named like the part: it may hold the part alone.

        `length`: the seconds of the file (None: not known). Raises `VideoError` if it can be neither the part
        nor the whole video.
        """
        if self.is_whole_video or length is None:
            return self
        alone = holds_part_alone(length, start=self.start, end=self.end)
        if alone is None:
            raise VideoError(
                "wrong length",
                f"lasts {length:.1f} s, which is neither {self.end - self.start:g} s nor a video up to"
                f" {self.end:g} s",
            )
        return Window() if alone else self

    def __str__(self) -> str:
        return f"seconds {self.start:g} to {'the end' if self.end == float('inf') else format(self.end, 'g')}"


@dataclass
class Sample:
    """The n frames taken from a video.

    `indices`: their positions in the whole file. `pictures`: of all n frames, or of those that `only` named.
    `frames`: N. `decoder`: program and version. `by_index`: only the needed frames were decoded. `moved`: the
    largest distance of a frame from its even position, in frames. `rotation`: degrees clockwise that were
    applied. `damaged`: packets that did not decode. `fps`, `duration` (seconds): the values of the header.

    `times`: seconds of the frames (None: not known), from the start of the file as players count. `end`: when
    the last frame of the file that decodes ends, in the same seconds; None if the file was not read so far.
    `decoded_share`: of the frames that the file promises. `hdr`: "PQ" or "HLG" if the pictures were mapped
    from it to SDR. `deinterlaced`: whether pictures were. `stream`: the number of the video stream, if the
    file has several. `window`: the part that was taken.
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
    times: list[float | None] = field(default_factory=list)
    end: float | None = None
    decoded_share: float = 1.0
    hdr: str = ""
    deinterlaced: bool = False
    stream: int | None = None
    window: Window = field(default_factory=Window)


@dataclass
class _Pass:
    """One pass over all frames: the positions inside the window, the pictures taken and their seconds."""

    range: Range
    pictures: dict[int, Encoded] = field(default_factory=dict)
    times: dict[int, float | None] = field(default_factory=dict)


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
    frames: Callable[[], TimedFrames],
    *,
    wanted: int,
    encode: EncodeFrame,
    window: Window,
    guess: Range | None,
    only: Numbers = None,
) -> Sample:
    """`wanted` frames, by decoding all frames in order; each call of `frames()` starts at the first frame.

    `guess` is the expected range of the window's frames. If it is wrong or None, a second pass takes the
    pictures by the true count. `only`: the numbers (0 to `wanted` - 1) of the frames whose pictures to make;
    None: all. Raises `VideoError` if nothing decodes.
    """
    seen = _one_pass(frames(), guess, wanted=wanted, only=only, encode=encode, window=window)
    if seen.range[0] >= seen.range[1]:
        raise VideoError("no frames", _why_none(seen.range, window))
    if seen.range != guess:
        again = _one_pass(frames(), seen.range, wanted=wanted, only=only, encode=encode, window=window)
        if again.range != seen.range:
            raise VideoError("no frames", "decoding it twice gives different numbers of frames")
        seen = again
    indices = positions_within(seen.range, wanted)
    pictures = [seen.pictures[index] for index in chosen_of(indices, only)]
    sample = Sample(indices, pictures, frames=seen.range[1] - seen.range[0])
    sample.times = [seen.times[index] for index in indices]
    return sample


def chosen_of(items: Sequence[int], only: Numbers) -> list[int]:
    """The items with the numbers `only`; all if it is None."""
    return list(items) if only is None else [items[number] for number in only]


def _one_pass(
    frames: TimedFrames,
    guess: Range | None,
    *,
    wanted: int,
    only: Numbers,
    encode: EncodeFrame,
    window: Window,
) -> _Pass:
    usable = guess is not None and guess[0] < guess[1]
    indices = positions_within(guess, wanted) if usable and guess is not None else []
    positions, shown = set(indices), set(chosen_of(indices, only)) if indices else set()
    first, count = 0, 0
    seen = _Pass((0, 0))
    for count, (time, frame) in enumerate(frames, start=1):
        if not window.is_whole_video:
            if time is None:
                raise VideoError("no frames", "its frames carry no times, so no part can be cut out")
            if time >= window.end:
                seen.range = (first, count - 1)
                return seen
            first += time < window.start
        if count - 1 in positions:
            seen.times[count - 1] = time
        if count - 1 in shown:
            seen.pictures[count - 1] = encode(frame)
    seen.range = (first, count)
    return seen


def _why_none(seen: Range, window: Window) -> str:
    if seen[1]:
        return f"no frame between {window.start:g} s and {window.end:g} s"
    return "no frame of the file decodes"
