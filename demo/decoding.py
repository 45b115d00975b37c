"""Decodes uploaded pictures and clips under limits; clips in a process that can be killed.

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

from common.errors import UserError
from dataloaders.transforms import FrameSize, resize_and_crop
from search import Retriever
from search.clips import Clip, ClipError, clip_of_job, picture_of_file, video_job
from search.encoder import EncodedVideo
from video.sample import Job, run_job
from video.sampling import VideoError
from video.streams import choose_stream
from video.worker_pool import Fault, Output, WorkerPool

PICTURES = "JPEG, PNG, WebP or BMP"
CLIPS = "MP4, MOV, WebM, MKV, AVI, MPEG, Ogg, FLV, WMV or GIF"
_PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_ASPECT = 50
_HEAD = 512  # bytes that identify a format
_TS_PACKET = 188


class UploadError(UserError):
    """An uploaded file cannot be used. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ClipLimits:
    """The longest clip in seconds, and the most pixels of a frame."""

    seconds: float
    pixels: int


@dataclass(frozen=True)
class _LimitedJob:
    job: Job
    limits: ClipLimits


def run_limited_job(task: _LimitedJob) -> Output:
    """`run_job` for the worker process; a `VideoError` if the clip is too long or too large."""
    assert task.job.path is not None
    try:
        with av.open(str(task.job.path)) as container:
            stream = choose_stream(container)
            if stream is None:
                return VideoError("unopenable", "no video stream"), []
            width, height = stream.width, stream.height
            seconds = (container.duration or 0) / av.time_base
    except (av.FFmpegError, IndexError, ValueError, OSError):
        return VideoError("unopenable", "no video stream"), []
    problem = _size_problem(width, height, task.limits.pixels)
    if problem:
        return VideoError("too large", problem), []
    if seconds > task.limits.seconds:
        return VideoError("too large", f"{seconds:,.0f} s; give at most {task.limits.seconds:,.0f} s"), []
    answer, jpegs = run_job(task.job)
    for jpeg in jpegs:  # frames may be larger than the header of the file says
        with Image.open(io.BytesIO(jpeg)) as frame:
            problem = _size_problem(*frame.size, task.limits.pixels)
        if problem:
            return VideoError("too large", problem), []
    return answer, jpegs


def _size_problem(width: int, height: int, pixels: int) -> str | None:
    """What is wrong with a size: too many pixels, or so narrow that the square crop shows almost nothing."""
    if width * height > pixels:
        return f"{width} x {height} pixels; give at most {pixels:,}"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{width} x {height} pixels; give one side at most {MAX_ASPECT} times the other"
    return None


class ClipDecoder:
    """Decodes one clip at a time in a separate process, which the first clip starts. Threads may share it."""

    def __init__(self, limits: ClipLimits, *, timeout: float) -> None:
        self._limits = limits
        self._timeout = timeout
        self._pool: WorkerPool[_LimitedJob] | None = None
        self._lock = threading.Lock()

    def decode(self, path: Path, *, frames: int, size: FrameSize) -> Clip:
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
    """Raise `UploadError` if the first bytes of a file are not those of a video format, whatever its name.

    FFmpeg would also read playlists, which name other files and addresses: those are refused here.
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
    """The RGB picture [H, W, 3] in a file. Raises `UploadError`; one of more than `pixels` is not decoded."""
    try:
        with Image.open(path, formats=_PICTURE_FORMATS) as picture:  # reads the header only
            width, height = picture.size
    except Image.DecompressionBombError:
        raise UploadError(413, f"image: too many pixels; give at most {pixels:,}") from None
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError):
        raise UploadError(415, f"image: not a picture by its contents; send {PICTURES}") from None
    problem = _size_problem(width, height, pixels)
    if problem:
        raise UploadError(413, f"image: {problem}")
    try:
        return picture_of_file(path)
    except ClipError:
        raise UploadError(415, f"image: cannot be decoded; send {PICTURES}") from None


class WithUploads(Retriever):
    """`retriever` for one search, with the decoded picture and clip of that search: it reads no files."""

    def __init__(self, retriever: Retriever, *, picture: np.ndarray | None, clip: Clip | None) -> None:
        self.__dict__.update(vars(retriever))  # shares the model
        # Resized now: many searches may wait, each with a picture in memory.
        self._picture = None if picture is None else resize_and_crop([picture], self.image_size)
        self._clip = clip

    def encode_image(self, path: Any) -> np.ndarray:
        assert self._picture is not None
        return self.encode_clips(self._picture[None])[1][0, 0]

    def encode_video(self, path: Any) -> EncodedVideo:
        assert self._clip is not None
        video, frames = self.encode_clips(self._clip.frames[None])
        return EncodedVideo(video[0], frames[0], self._clip.times, self._clip.duration)
