"""Parts of long videos come from several processes in any order; their moments are made when all are there.

m frames of a video, n moments, F frames of a moment, D joint width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dataloaders.frame_sampling import even_frames
from search.clips import ClipError, Part
from search.encoder import Encoder
from search.index_format import Span
from search.index_writer import Moments
from search.moments.cutting import Cutting, changes, cut

_AT_ONCE = 64  # moments whose frames are pooled at once


@dataclass
class _Video:
    parts: dict[int, tuple[Part, np.ndarray]] = field(default_factory=dict)


class MomentCollector:
    """Encodes the parts of long videos as they come. `thumbnails`: "all" frames, "one" or "none"."""

    def __init__(self, encoder: Encoder, cutting: Cutting, *, thumbnails: str, lengths: bool) -> None:
        self._encoder = encoder
        self._cutting = cutting
        self._thumbnails = thumbnails
        self._lengths = lengths
        self._videos: dict[str, _Video] = {}

    def add(self, name: str, part: Part) -> Moments | None:
        """The moments of the video `name` if `part` was its last part. Raises `ClipError` without frames."""
        video = self._videos.setdefault(name, _Video())
        features = self._encoder.encode_frames(part.frames)
        video.parts[part.number] = (replace(part, frames=part.frames[:0]), features)
        if len(video.parts) < part.parts:
            return None
        del self._videos[name]
        return self._moments([video.parts[number] for number in sorted(video.parts)])

    def drop(self, name: str) -> None:
        """Forget the parts of a video of which another part failed."""
        self._videos.pop(name, None)

    def _moments(self, parts: list[tuple[Part, np.ndarray]]) -> Moments:
        times = [time for part, _ in parts for time in part.times]
        if not times:
            raise ClipError("no frames", "no frame of the file decodes")
        features = np.concatenate([each for _, each in parts])
        jpegs = [jpeg for part, _ in parts for jpeg in part.jpegs]
        differ = changes(np.concatenate([part.colours for part, _ in parts]))
        starts = cut(times, differ, every=self._cutting.every)
        ends = [*starts[1:], len(times)]
        chosen = [self._chosen(start, end) for start, end in zip(starts, ends, strict=True)]
        stop = max(parts[0][0].duration, times[-1])
        spans = [
            Span(times[start], times[end] if end < len(times) else stop, tuple(times[i] for i in frames))
            for start, end, frames in zip(starts, ends, chosen, strict=True)
        ]
        rows = [
            self._encoder.pool_frames(features[np.asarray(chosen[first : first + _AT_ONCE])])
            for first in range(0, len(chosen), _AT_ONCE)
        ]
        video, frames, lengths = (np.concatenate(each) for each in zip(*rows, strict=True))
        thumbnails = [self._pictures(each, jpegs) for each in chosen]
        return Moments(spans, video, frames, thumbnails, lengths if self._lengths else None)

    def _chosen(self, start: int, end: int) -> list[int]:
        """The F frames of the moment of frames `start` to `end - 1`; if it has fewer, they repeat."""
        return (start + even_frames(end - start, self._encoder.frames)).tolist()

    def _pictures(self, frames: list[int], jpegs: list[bytes]) -> list[tuple[int, bytes]]:
        """(frame, JPEG) of one moment; repeated frames once."""
        if self._thumbnails == "none":
            return []
        middle = len(frames) // 2
        if self._thumbnails == "one":
            return [(middle, jpegs[frames[middle]])]
        first = {frame: place for place, frame in reversed(list(enumerate(frames)))}
        return [(place, jpegs[frame]) for frame, place in sorted(first.items())]
