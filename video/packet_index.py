"""The frames of a video according to its packets, without decoding.

Legend: pts, a frame's presentation time in units of the stream's time base.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import av

# A video of at least so many frames is long: two minutes at 25 frames a second.
LONG_VIDEO = 3000
# Containers that mark key frames, and codecs with one frame in every packet. For all others (transport
# streams, AVI, VP8 with its hidden frames) the frames are known only after decoding.
_INDEXED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
_FRAME_PER_PACKET = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d", "libvpx-vp9", "libaom-av1"})


@dataclass(frozen=True)
class PacketTable:
    """The frames of a stream according to its packets.

    `times`: pts of the frames to be shown, in display order. `keyframes`: pts of the key frames, ascending.
    `packets`: how many packets have a frame to be shown; `one_frame_each`: whether container and codec have
    one frame in every packet. `trusted`: whether decoding will give exactly the frames of `times`, as far as
    packets can tell. `end`: the pts at which the last frame ends; None if the packets do not say.
    """

    times: list[int]
    keyframes: list[int]
    packets: int
    trusted: bool
    one_frame_each: bool = False
    end: int | None = None

    def start_of(self, pts: int) -> int | None:
        """The key frame from which the frame at `pts` decodes exactly: the last one with a pts <= `pts`.

        The key frame before it in the file is not enough: a frame shown before that key frame may refer to
        even earlier frames.
        """
        place = bisect_right(self.keyframes, pts)
        return self.keyframes[place - 1] if place else None

    def count_between(self, first: int, last: int) -> int:
        """The number of frames from pts `first` to pts `last`, both included."""
        return bisect_right(self.times, last) - bisect_left(self.times, first)


def read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> PacketTable:
    """The table of a stream's packets; reads the container to its end."""
    times: list[int] = []
    keyframes: list[int] = []
    packets, valid = 0, True
    last: int | None = None
    end: int | None = None
    prefix = _unit_length_bytes(stream)
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            valid = valid and packet.pts is not None and not packet.is_corrupt
            valid = valid and (not prefix or _units_fit(memoryview(packet), prefix))
            if packet.pts is not None and packet.is_keyframe:
                keyframes.append(packet.pts)
            if packet.is_discard:
                continue
            packets += 1
            if packet.pts is not None:
                times.append(packet.pts)
                if last is None or packet.pts > last:
                    last = packet.pts
                    end = last + packet.duration if packet.duration else None
    except av.FFmpegError:
        valid = False
    keyframes.sort()
    times.sort()
    valid = valid and bool(keyframes) and bool(times) and keyframes[0] <= times[0]
    valid = valid and all(earlier < later for earlier, later in zip(times, times[1:], strict=False))
    one_frame_each = _one_frame_a_packet(container, stream)
    return PacketTable(times, keyframes, packets, valid and one_frame_each, one_frame_each, end)


def _unit_length_bytes(stream: av.VideoStream) -> int:
    """The size in bytes of a unit's length field in H.264 packets of mp4 and Matroska; 0 for others."""
    extradata = stream.codec_context.extradata
    if stream.codec_context.name != "h264" or not extradata or len(extradata) < 7 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def _units_fit(data: memoryview, prefix: int) -> bool:
    """Whether an H.264 packet is a sequence of complete units, judged by their lengths and headers.

    Frames that are not decoded get no other check; without this one, garbage would count as a frame.
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
    """`indices`; in long videos (`LONG_VIDEO`) moved to positions that are cheap to decode.

    A frame moves by at most `slack` times the distance between two wanted frames: to the nearest key frame
    within reach, else as far as allowed towards the key frame before it. The first and the last frame stay.
    So do frames with the same key frame as a neighbour, because the frames between are decoded anyway.
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
