"""Long videos: frames at a regular distance, decoded in parts that several processes share.

A frame is taken near every multiple of a distance in seconds, counted from the first frame. Where the packets
tell which frames there are (`PacketTable.trusted`), a key frame within half a distance is taken in the place
of the frame at that second, because it decodes alone; and each part is decoded by itself. Other files are
decoded once from start to end. The times are those of the packets of the frames that are taken.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import av

from video.decoding import FramesInOrder, UnexpectedFrames, Upright, decode_group, group_by_keyframe
from video.frame_times import duration_of, seconds_before
from video.packet_index import PacketTable, read_packets
from video.pictures import Encoded
from video.sample import Job, Settings, encoder_of, prepare_process, run_job
from video.sampling import VideoError
from video.streams import open_video
from video.worker_pool import Output

PART_SECONDS = 300.0  # of a video that one task decodes
_END = float("inf")
_NEAR = 100  # key frames around a second that are looked at


@dataclass(frozen=True)
class LongVideo:
    """A video that is longer than a limit: its seconds, and whether parts of it decode by themselves."""

    seconds: float
    seekable: bool


@dataclass(frozen=True)
class WholeJob:
    """A video to decode as `run_job` does; one of more than `limit` seconds is only recognised."""

    job: Job
    limit: float


@dataclass(frozen=True)
class PartJob:
    """The frames of a video from second `start` to `end`, one every `distance` seconds."""

    path: Path
    distance: float
    start: float
    end: float
    settings: Settings

    @property
    def share(self) -> float:
        """How many tasks of the usual length it is, at least one."""
        return max(1.0, (self.end - self.start) / PART_SECONDS)


def run_search_job(job: WholeJob | PartJob) -> Output:
    """As `run_job`; but (`LongVideo`, []) for a long video, and of a part (seconds of its frames, JPEGs)."""
    prepare_process()
    if isinstance(job, PartJob):
        try:
            return _part(job)
        except VideoError as error:
            return error, []
    long = long_video(job.job.path, limit=job.limit)
    return run_job(job.job) if long is None else (long, [])


def long_video(path: Path, *, limit: float) -> LongVideo | None:
    """Whether a video has more than `limit` seconds; None if not, or if nothing tells its length."""
    if limit == _END or not path.is_file():
        return None
    try:
        container, stream = open_video(path)
    except VideoError:  # `run_job` says why
        return None
    with container:
        promised, unit = duration_of(container, stream), stream.time_base
    if unit is None or (promised is not None and promised <= limit):
        return None
    table = _table_of(path)
    if not table.times:
        return None
    end = table.end if table.end is not None else table.times[-1]
    seconds = float((end - table.times[0]) * unit)
    return LongVideo(seconds, table.trusted) if seconds > limit else None


def parts_of(path: Path, long: LongVideo, *, distance: float, settings: Settings) -> list[PartJob]:
    """The tasks of a long video, in order: parts of about `PART_SECONDS`, or one that decodes all of it."""
    if not long.seekable:
        return [PartJob(path, distance, 0.0, long.seconds, settings)]
    length = distance * max(1, math.ceil(PART_SECONDS / distance))
    count = max(1, math.ceil(long.seconds / length))
    return [
        PartJob(path, distance, number * length, (number + 1) * length, settings) for number in range(count)
    ]


@lru_cache(maxsize=2)
def _cached_table(path: str, size: int, mtime_ns: int) -> PacketTable:
    container, stream = open_video(Path(path))
    with container:
        return read_packets(container, stream)


def _table_of(path: Path) -> PacketTable:
    """The packets of a file, read once for all parts that a process decodes."""
    status = os.stat(path)
    return _cached_table(str(path), status.st_size, status.st_mtime_ns)


def _part(job: PartJob) -> Output:
    table = _table_of(job.path)
    container, stream = open_video(job.path)
    with container:
        unit = stream.time_base
        if unit is None:
            raise VideoError("no times", "its frames carry no times, so no moments can be told")
        frames: list[tuple[float, Encoded]] | None = None
        if table.trusted:
            try:
                frames = list(_by_index(container, stream, table, job, unit))
            except (UnexpectedFrames, av.FFmpegError):
                frames = None
        before = seconds_before(container, float(table.times[0] * unit))
        if frames is None:
            frames = list(_in_order(job, table, unit, Upright(encoder_of(job.settings), stream)))
    if not frames and not job.start:
        raise VideoError("no frames", f"no frame decodes before second {job.end:g}")
    return [round(before + second, 3) for second, _ in frames], [picture.jpeg for _, picture in frames]


def _by_index(
    container: Any, stream: av.VideoStream, table: PacketTable, job: PartJob, unit: Fraction
) -> Iterator[tuple[float, Encoded]]:
    encode = Upright(encoder_of(job.settings), stream)
    wanted = chosen_frames(table, job, unit)
    for start, group in group_by_keyframe(table, set(wanted)).items():
        for frame in decode_group(container, stream, start=start, group=group):
            yield float((cast(int, frame.pts) - table.times[0]) * unit), encode(frame)


def chosen_frames(table: PacketTable, job: PartJob, unit: Fraction) -> list[int]:
    """The pts of the frames to take, ascending: at every multiple of the distance, or a key frame near it."""
    first = table.times[0]
    reach = job.distance / 2 / float(unit)
    chosen: list[int] = []
    number = math.ceil(job.start / job.distance)
    while number * job.distance < job.end:
        pts = first + number * job.distance / float(unit)
        place = bisect_left(table.times, math.floor(pts))
        if place == len(table.times):
            break
        near = bisect_left(table.keyframes, pts - reach)
        keys = [key for key in table.keyframes[near : near + _NEAR] if key < pts + reach]
        shown = [key for key in keys if table.count_between(key, key)]
        best = min(shown, key=lambda key: abs(key - pts), default=table.times[place])
        if not chosen or best > chosen[-1]:
            chosen.append(best)
        number += 1
    return chosen


def _in_order(
    job: PartJob, table: PacketTable, unit: Fraction, encode: Upright
) -> Iterator[tuple[float, Encoded]]:
    """By decoding every frame of the part; packets that do not decode are passed over."""
    start = None
    if table.trusted:
        pts = table.times[0] + math.floor(job.start / float(unit))
        key = table.start_of(pts)
        start = (key if key is not None else table.times[0], table.times[0])
    due = job.start
    end = job.end if table.trusted else _END
    for second, frame in FramesInOrder(job.path, start)():
        if second is None:
            raise VideoError("no times", "its frames carry no times, so no moments can be told")
        if second >= end:
            return
        if second >= due:
            yield second, encode(frame)
            due = job.distance * (math.floor(second / job.distance + 1e-9) + 1)
