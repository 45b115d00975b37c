"""What the packets of a video say about its frames, without decoding any.

Legend: pts, a frame's presentation time in units of the stream's time base.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import av

# Frames from which on a video is long: two minutes at 25 a second.
LONG_VIDEO = 3000
# Containers that say themselves which packets are key frames, and codecs of which every packet is one frame.
# Elsewhere (transport streams, AVI, VP8 with its hidden frames) only decoding tells.
_INDEXED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
_FRAME_PER_PACKET = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d", "libvpx-vp9", "libaom-av1"})


@dataclass(frozen=True)
class PacketTable:
    """What the packets of a stream promise.

    `times`: pts of the frames to be shown, in display order; `keyframes`: pts of the key frames, ascending;
    `packets`: how many carry a frame to be shown; `trusted`: whether `times` are, one for one, the frames
    that decoding gives, as far as packets can tell.
    """

    times: list[int]
    keyframes: list[int]
    packets: int
    trusted: bool

    def start_of(self, pts: int) -> int | None:
        """The key frame from which decoding gives the frame at `pts` exactly: the last not shown after it.

        A frame shown before the key frame that precedes it in the file may lean on frames before that.
        """
        place = bisect_right(self.keyframes, pts)
        return self.keyframes[place - 1] if place else None

    def count_between(self, first: int, last: int) -> int:
        """How many frames lie from pts `first` to pts `last`, both included."""
        return bisect_right(self.times, last) - bisect_left(self.times, first)


def read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> PacketTable:
    """The table of a stream's packets; reads the container to its end."""
    times: list[int] = []
    keyframes: list[int] = []
    packets, sound = 0, True
    prefix = _unit_length_bytes(stream)
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            sound = sound and packet.pts is not None and not packet.is_corrupt
            sound = sound and (not prefix or _units_fit(memoryview(packet), prefix))
            if packet.pts is not None and packet.is_keyframe:
                keyframes.append(packet.pts)
            if packet.is_discard:
                continue
            packets += 1
            if packet.pts is not None:
                times.append(packet.pts)
    except av.FFmpegError:
        sound = False
    keyframes.sort()
    times.sort()
    sound = sound and bool(keyframes) and bool(times) and keyframes[0] <= times[0]
    sound = sound and all(earlier < later for earlier, later in zip(times, times[1:], strict=False))
    return PacketTable(times, keyframes, packets, sound and _one_frame_a_packet(container, stream))


def _unit_length_bytes(stream: av.VideoStream) -> int:
    """How many bytes say a unit's length in packets of H.264 as mp4 and Matroska have it; 0 elsewhere."""
    extradata = stream.codec_context.extradata
    if stream.codec_context.name != "h264" or not extradata or len(extradata) < 7 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def _units_fit(data: memoryview, prefix: int) -> bool:
    """Whether a packet of H.264 is whole units one after another, as far as their lengths and headers go.

    A frame that is left undecoded is not otherwise looked at, and one of no sense would be counted.
    """
    place, size = 0, len(data)
    while place + prefix < size:
        length = int.from_bytes(data[place : place + prefix], "big")
        place += prefix
        if not length or place + length > size or data[place] & 0x80:
            return False
        place += length
    return place == size


def _one_frame_a_packet(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    names = set(container.format.name.split(","))
    return bool(names & _INDEXED_CONTAINERS) and stream.codec_context.name in _FRAME_PER_PACKET


def move_to_cheap(indices: list[int], table: PacketTable, *, slack: float) -> list[int]:
    """`indices` with frames of long videos (`LONG_VIDEO`) moved to where decoding is cheap.

    A frame moves by at most `slack` of the distance between two: to the nearest key frame within reach, else
    as near as it may to the key frame before it. First and last stay; so do frames that share their stretch
    with others, which is decoded anyway.
    """
    reach = int(slack * (indices[-1] - indices[0]) / max(1, len(indices) - 1))
    if indices[-1] - indices[0] + 1 < LONG_VIDEO or not reach:
        return indices
    starts = [table.start_of(table.times[index]) for index in indices]
    moved = list(indices)
    for place in range(1, len(indices) - 1):
        start = starts[place]
        if start is not None and start not in (starts[place - 1], starts[place + 1]):
            moved[place] = _cheapest_near(indices[place], table, start=start, reach=reach)
    return moved


def _cheapest_near(index: int, table: PacketTable, *, start: int, reach: int) -> int:
    before = bisect_left(table.times, start)
    following = bisect_right(table.keyframes, start)
    after = bisect_left(table.times, table.keyframes[following]) if following < len(table.keyframes) else None
    within = [key for key in (before, after) if key is not None and abs(key - index) <= reach]
    return min(within, key=lambda key: abs(key - index)) if within else index - reach
