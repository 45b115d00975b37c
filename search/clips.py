"""Clips: the frames of a video file or a stored video as the model takes them, with times; thumbnails.

The frames are the same as in training and evaluation: the frame store's code decodes n frames spread evenly
and stores them as JPEGs, and F of these are chosen evenly. n stored frames, F frames of a clip, S pixels a
side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import UserError
from dataloaders.frame_sampling import even_frames
from dataloaders.frame_store.format import FrameStoreError
from dataloaders.frame_store.reader import FrameStore, decode_jpeg
from dataloaders.transforms import FrameSize, resize_and_crop
from search.moments.cutting import histograms
from video.sample import Job, Settings, run_job
from video.sampling import VideoError, Window

STORE_SETTINGS = Settings()  # the default of tools/frame2lmdb.py
_TRANSPARENT_FORMATS = ("PNG", "WEBP")
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 160, 80


class ClipError(UserError):
    """No clip can be made from a file. `reason` is the kind of error, as in failures.jsonl of a store."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Clip:
    """`frames` uint8 [F, 3, S, S]; `times` seconds [F] (None: not known); `pictures` RGB [H, W, 3] each."""

    frames: Tensor
    times: tuple[float | None, ...]
    duration: float | None
    pictures: Sequence[np.ndarray]

    def thumbnails(self, which: str) -> list[tuple[int, bytes]]:
        """(frame, JPEG) of "all" frames, of "one" in the middle, or of "none"; repeated frames once."""
        numbers = {"all": range(len(self.pictures)), "one": [len(self.pictures) // 2], "none": []}[which]
        taken: dict[float | None, tuple[int, bytes]] = {}
        for number in numbers:
            key = self.times[number] if self.times[number] is not None else -float(number) - 1
            if key not in taken:
                taken[key] = (number, thumbnail(self.pictures[number]))
        return list(taken.values())


@dataclass(frozen=True)
class Part:
    """Part `number` of `parts` of a long video of `duration` seconds: m frames, one after another.

    `frames` uint8 [m, 3, S, S]; `times` seconds [m]; `colours` [m, C] tell changes of shots; `jpegs` are
    thumbnails [m].
    """

    number: int
    parts: int
    duration: float
    frames: Tensor
    times: tuple[float, ...]
    colours: np.ndarray
    jpegs: tuple[bytes, ...]


def part_of_job(
    answer: Any, jpegs: Sequence[bytes], *, number: int, parts: int, duration: float, size: FrameSize
) -> Part:
    """A part from the output of `run_search_job`. Raises `ClipError` if that is a `VideoError`."""
    if isinstance(answer, VideoError):
        raise ClipError(answer.reason, answer.message)
    pictures = [decode_jpeg(jpeg) for jpeg in jpegs]
    return Part(
        number,
        parts,
        duration,
        resize_and_crop(pictures, size),
        tuple(answer),
        histograms(pictures),
        tuple(map(thumbnail, pictures)),
    )


def video_job(path: Path) -> Job:
    """The job that decodes `path`, for `run_job` or a pool of workers."""
    return Job(path.name, path, Window(), STORE_SETTINGS)


def clip_of_file(path: Path, *, frames: int, size: FrameSize) -> Clip:
    """The clip of a video file, decoded in this process. Raises `ClipError`."""
    if not path.is_file():
        raise ClipError("missing", f"no such file: {path}")
    answer, jpegs = run_job(video_job(path))
    try:
        return clip_of_job(answer, jpegs, frames=frames, size=size)
    except ClipError as error:
        raise ClipError(error.reason, f"{path}: {error.message}") from None


def clip_of_job(answer: Any, jpegs: Sequence[bytes], *, frames: int, size: FrameSize) -> Clip:
    """The clip of the output of `run_job`. Raises `ClipError` if that is a `VideoError`."""
    if isinstance(answer, VideoError):
        raise ClipError(answer.reason, answer.message)
    return _clip(jpegs, answer, frames=frames, size=size)


def clip_of_store(store: FrameStore, video_id: str, *, frames: int, size: FrameSize) -> Clip:
    """The clip of a stored video. Raises `ClipError`."""
    try:
        count = store.num_frames(video_id)
        if not count:
            raise ClipError("missing", f"{store.path} has no frames of it")
        jpegs = store.read_jpegs(video_id, np.arange(count))
        return _clip(jpegs, store.manifest(video_id) or {}, frames=frames, size=size)
    except FrameStoreError as error:
        raise ClipError("unreadable", str(error)) from None


def picture_of_file(path: Path) -> np.ndarray:
    """A picture file, RGB uint8 [H, W, 3], on white where it is transparent.

    Raises `ClipError` if it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ClipError("missing", f"{path}: {error.strerror}") from None
    picture = _on_white(data)
    if picture is None:
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        except cv2.error:
            picture = None
        if picture is None:
            raise ClipError("no picture", f"{path}: cannot be read as a picture (JPEG, PNG, WebP, BMP)")
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return np.asarray(picture)


def _on_white(data: bytes) -> np.ndarray | None:
    """A picture with transparent parts, RGB [H, W, 3]; None if it has none or Pillow cannot read it.

    OpenCV would show the colour that such pixels have below, often black.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_TRANSPARENT_FORMATS) as picture:
            if not picture.has_transparency_data:
                return None
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
    # What Pillow raises on damaged files. OpenCV reads, or refuses, them.
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError):
        return None
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


def thumbnail(picture: np.ndarray) -> bytes:
    """A small JPEG of an RGB picture."""
    height, width = picture.shape[:2]
    scale = min(1.0, THUMBNAIL_SIDE / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY]
    )
    assert done, "OpenCV could not encode a picture of its own making"
    return data.tobytes()


def _clip(jpegs: Sequence[bytes], record: dict[str, Any], *, frames: int, size: FrameSize) -> Clip:
    chosen = even_frames(len(jpegs), frames).tolist()
    try:
        pictures = [decode_jpeg(jpegs[index]) for index in chosen]
    except UserError as error:
        raise ClipError("unreadable", str(error)) from None
    times = _times(record, len(jpegs))
    # The header of a file that is cut off promises more than there is.
    cut_off = "decoded_share" in record and "start" not in record
    duration = record.get("decoded_until" if cut_off else "duration")
    return Clip(
        frames=resize_and_crop(pictures, size),
        times=tuple(times[index] for index in chosen),
        duration=None if duration is None else float(duration),
        pictures=pictures,
    )


def _times(record: dict[str, Any], stored: int) -> list[float | None]:
    """Seconds of the stored frames from the start of the file; None if they are not known.

    Older frame stores do not hold them: there they follow from positions, duration and frame rate, which is
    right only if the frame rate does not vary.
    """
    if len(record.get("times", ())) == stored:
        return list(record["times"])
    positions, rate = record.get("indices"), record.get("fps")
    duration, count = record.get("duration"), record.get("source_frames")
    if not positions or len(positions) != stored:
        return [None] * stored
    if duration and count and "start" not in record:
        return [round(position * float(duration) / count, 3) for position in positions]
    return [round(position / float(rate), 3) if rate else None for position in positions]
