"""One video, from its file to JPEGs and manifest record. Runs in the workers of a pool.

Legend: n frames wanted of every video.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
from av.container import InputContainer

from video.decoding import sample_with_pyav
from video.frame_times import duration_of
from video.opencv_decoder import sample_with_opencv
from video.pictures import PictureEncoder
from video.sampling import Sample, VideoError, Window
from video.streams import codec_of, open_video
from video.worker_pool import Output

# Errors of PyAV after which OpenCV's own FFmpeg is tried.
_SECOND_CHANCE = frozenset({"unopenable", "codec not decodable", "no frames"})

_PROBE_PACKETS = 64
# Durations in headers are often a frame or two too long: a smaller share than this is recorded.
_ALL = 0.98


@dataclass(frozen=True)
class Settings:
    """The settings of a store. They are written into it; videos with other settings are refused.

    `num_frames` n; `short_side` in pixels (0: original size); `quality` of the JPEGs; `slack`: how far frames
    of long videos may move from their even positions, see `move_to_cheap` (0: not at all).
    """

    num_frames: int = 30
    short_side: int = 256
    quality: int = 95
    slack: float = 0.0

    def as_record(self) -> dict[str, Any]:
        """The settings as the store keeps them."""
        return {**asdict(self), "filter": "area"}


@dataclass(frozen=True)
class Job:
    """A video to decode: its id, its file and the part of it.

    `own_file`: the file is named like the part, so it may hold the part alone. `only`: the numbers (0 to
    n - 1) of the frames whose pictures to make; None: all.
    """

    video_id: str
    path: Path
    window: Window
    settings: Settings
    own_file: bool = False
    only: tuple[int, ...] | None = None


def run_job(job: Job) -> Output:
    """(manifest record, JPEGs) of a video, or (`VideoError`, []). With `only`, both are of those frames."""
    prepare_process()
    try:
        sample = _sample(job)
    except VideoError as error:
        return error, []
    return _record(job, sample), [picture.jpeg for picture in sample.pictures]


def probe(path: Path) -> Output:
    """(the codec, with a remark if the first packets do not decode, []), or (`VideoError`, [])."""
    prepare_process()
    try:
        container, stream = open_video(path)
    except VideoError as error:
        return error, []
    with container:
        codec = codec_of(stream)
        if _first_frame_decodes(container, stream):
            return codec, []
    return f"{codec} that gives no frame here", []


def try_job(job: Job) -> Output:
    """("", []) if the video looks decodable, else (`VideoError`, []): much faster than `run_job`.

    The file is opened, and frames are decoded until the first one comes out. If none does, or the wanted part
    is behind the end that the header gives, the job itself decides.
    """
    prepare_process()
    try:
        container, stream = open_video(job.path)
    except VideoError:
        return _verdict(job)
    with container:
        length = duration_of(container, stream)
        if _first_frame_decodes(container, stream) and (length is None or job.window.start < length):
            return "", []
    return _verdict(job)


def _verdict(job: Job) -> Output:
    outcome, _ = run_job(replace(job, only=(0,)))
    return (outcome if isinstance(outcome, VideoError) else ""), []


def _first_frame_decodes(container: InputContainer, stream: av.VideoStream) -> bool:
    for packet in islice(container.demux(stream), _PROBE_PACKETS):
        with suppress(av.FFmpegError):
            if stream.codec_context.decode(packet):
                return True
    return False


@lru_cache(maxsize=1)
def prepare_process() -> None:
    """Set the libraries of a process of the pool, once."""
    cv2.setNumThreads(1)  # the pool's processes use all cores already
    av.logging.set_level(av.logging.PANIC)  # a bad file is reported once, by its id


@lru_cache(maxsize=4)
def encoder_of(settings: Settings) -> PictureEncoder:
    """What makes the pictures of these settings."""
    return PictureEncoder(short_side=settings.short_side, quality=settings.quality)


def _sample(job: Job) -> Sample:
    if not job.path.is_file():
        raise VideoError("missing", "no such file")
    options: dict[str, Any] = {
        "wanted": job.settings.num_frames,
        "encode": encoder_of(job.settings),
        "window": job.window,
        "own_file": job.own_file,
        "only": job.only,
    }
    try:
        return sample_with_pyav(job.path, slack=job.settings.slack, **options)
    except VideoError as first:
        if first.reason not in _SECOND_CHANCE or not job.path.stat().st_size:
            raise
        try:
            return sample_with_opencv(job.path, **options)
        except VideoError:
            raise first from None


def _record(job: Job, sample: Sample) -> dict[str, Any]:
    sizes = {(picture.height, picture.width) for picture in sample.pictures}
    record: dict[str, Any] = {
        "file": os.fsencode(job.path.name).decode("utf-8", "replace"),
        "file_bytes": job.path.stat().st_size,
        "codec": sample.codec,
        "source_frames": sample.frames,
        "fps": sample.fps,
        "duration": sample.duration,
        "rotation": sample.rotation,
        "indices": sample.indices,
        "height": sample.pictures[0].height,
        "width": sample.pictures[0].width,
        "bytes": sum(len(picture.jpeg) for picture in sample.pictures),
        "decoder": sample.decoder,
        "counted_by": "index" if sample.by_index else "decoding",
    }
    if all(time is not None for time in sample.times):
        record["times"] = sample.times
    if sample.end is not None:
        record["decoded_until"] = sample.end
    if sample.decoded_share < _ALL:
        record["decoded_share"] = round(sample.decoded_share, 3)
    if len(set(sample.indices)) < len(sample.indices):
        record["repeated"] = True
    if sample.moved:
        record["moved"] = sample.moved
    if len(sizes) > 1:
        record["mixed_sizes"] = True
    if sample.damaged:
        record["damaged_packets"] = sample.damaged
    if sample.hdr:
        record["tone_mapped"] = sample.hdr
    if sample.deinterlaced:
        record["deinterlaced"] = True
    if sample.stream is not None:
        record["stream"] = sample.stream
    window = sample.window
    if not window.is_whole_video:
        record["start"] = window.start
        record["end"] = window.end if window.end != float("inf") else None
    return record
