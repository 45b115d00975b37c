"""Uploaded pictures and clips, decoded under limits; clips in a process that can be ended.

F frames of a clip, S pixels a side.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from dataloaders.transforms import resize_and_crop
from search import Retriever
from search.clips import Clip, ClipError, clip_of_job, picture_of_file, video_job
from search.retriever import EncodedVideo
from video.sample import Job, run_job
from video.sampling import VideoError
from video.worker_pool import Fault, Output, WorkerPool

PICTURES = "JPEG, PNG, WebP or BMP"
CLIPS = "MP4, MOV, WebM, MKV, AVI, MPEG, Ogg, FLV, WMV or GIF"
_PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_ASPECT = 50
_HEAD = 512  # bytes that tell the kind of a file
_TS_PACKET = 188


class UploadError(ValueError):
    """An uploaded file cannot be used; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ClipLimits:
    """What an uploaded clip may be: `seconds` of it, pixels of a frame."""

    seconds: float
    pixels: int


@dataclass(frozen=True)
class _LimitedJob:
    job: Job
    limits: ClipLimits


def run_limited_job(task: _LimitedJob) -> Output:
    """In the worker: what `run_job` gives, or a `VideoError` where the clip is too long or too large."""
    assert task.job.path is not None
    try:
        with av.open(str(task.job.path)) as container:
            stream = container.streams.video[0]
            width, height = stream.width, stream.height
            seconds = (container.duration or 0) / av.time_base
    except (av.FFmpegError, IndexError, ValueError, OSError):
        return VideoError("unopenable", "no video stream"), []
    fault = _shape_fault(width, height, task.limits.pixels)
    if fault:
        return VideoError("too large", fault), []
    if seconds > task.limits.seconds:
        return VideoError("too large", f"{seconds:,.0f} s; give at most {task.limits.seconds:,.0f} s"), []
    answer, jpegs = run_job(task.job)
    for jpeg in jpegs:  # frames may be larger than the file says at its start
        with Image.open(io.BytesIO(jpeg)) as frame:
            fault = _shape_fault(*frame.size, task.limits.pixels)
        if fault:
            return VideoError("too large", fault), []
    return answer, jpegs


def _shape_fault(width: int, height: int, pixels: int) -> str | None:
    """What is wrong with a size: too much to unpack, or a line, of which the model would see the middle."""
    if width * height > pixels:
        return f"{width} x {height} pixels; give at most {pixels:,}"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{width} x {height} pixels; give one side at most {MAX_ASPECT} times the other"
    return None


class ClipDecoder:
    """Decodes a clip at a time in a process of its own, started for the first. Threads may share it."""

    def __init__(self, limits: ClipLimits, *, timeout: float) -> None:
        self._limits = limits
        self._timeout = timeout
        self._pool: WorkerPool[_LimitedJob] | None = None
        self._lock = threading.Lock()

    def decode(self, path: Path, *, frames: int, size: int) -> Clip:
        """The clip of a video file. Raises `UploadError`."""
        check_clip(path)
        with self._lock:
            if self._pool is None:
                self._pool = WorkerPool(run_limited_job, workers=1, timeout=self._timeout).__enter__()
            ((_, outcome),) = self._pool.run([_LimitedJob(video_job(path), self._limits)])
        if isinstance(outcome, Fault):
            if outcome.reason == "timeout":
                raise UploadError(413, f"video: decoding {outcome.message}; give a shorter or smaller one")
            raise UploadError(415, "video: cannot be decoded")
        if isinstance(outcome[0], VideoError) and outcome[0].reason == "too large":
            raise UploadError(413, f"video: {outcome[0].message}")
        try:
            return clip_of_job(*outcome, frames=frames, size=size)
        except ClipError as error:
            raise UploadError(415, f"video: cannot be decoded ({error.reason})") from None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._pool is not None:
                self._pool.__exit__()
                self._pool = None


def check_clip(path: Path) -> None:
    """Raise `UploadError` where a file does not start as a video does, whatever its name.

    FFmpeg would also read playlists, which name other files and addresses; here they are refused.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise UploadError(415, "video: the file is empty")
    if not _is_video(head):
        raise UploadError(415, f"video: not a video by its contents; send {CLIPS}")


def _is_video(head: bytes) -> bool:
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return True
    if len(head) > _TS_PACKET and head[0] == 0x47 and head[_TS_PACKET] == 0x47:
        return True
    if len(head) > _TS_PACKET + 8 and head[4] == 0x47 and head[_TS_PACKET + 8] == 0x47:  # M2TS
        return True
    starts = (b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01", b"\x30\x26\xb2\x75", b"GIF87a", b"GIF89a")
    return head.startswith((*starts, b"\0\0\x01\xba", b"\0\0\x01\xb3"))


def decode_picture(path: Path, *, pixels: int) -> np.ndarray:
    """An RGB picture [H, W, 3] of a file. Raises `UploadError`; one of more than `pixels` is not unpacked."""
    try:
        with Image.open(path, formats=_PICTURE_FORMATS) as picture:  # reads the header only
            width, height = picture.size
    except Image.DecompressionBombError:
        raise UploadError(413, f"image: too many pixels; give at most {pixels:,}") from None
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError):
        raise UploadError(415, f"image: not a picture by its contents; send {PICTURES}") from None
    fault = _shape_fault(width, height, pixels)
    if fault:
        raise UploadError(413, f"image: {fault}")
    try:
        return picture_of_file(path)
    except ClipError:
        raise UploadError(415, f"image: cannot be decoded; send {PICTURES}") from None


class WithUploads(Retriever):
    """`retriever`, for one search whose picture and clip are decoded already: their paths are not read."""

    def __init__(self, retriever: Retriever, *, picture: np.ndarray | None, clip: Clip | None) -> None:
        self.__dict__.update(vars(retriever))  # the same model
        # Made small now: a search may have to wait for its turn.
        self._picture = None if picture is None else resize_and_crop([picture], self.image_size)
        self._clip = clip

    def encode_image(self, path: Any) -> np.ndarray:
        assert self._picture is not None
        return self.encode_clips(self._picture[None])[1][0, 0]

    def encode_video(self, path: Any) -> EncodedVideo:
        assert self._clip is not None
        video, frames = self.encode_clips(self._clip.frames[None])
        return EncodedVideo(video[0], frames[0], self._clip.times, self._clip.duration)
