"""Frames of a video file by OpenCV's own FFmpeg, for files that PyAV's cannot open or decode.

Legend: pictures are BGR uint8 [H, W, 3], rotated upright by OpenCV.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from video.pictures import Encode
from video.sampling import Numbers, Sample, TimedFrames, VideoError, Window, sample_in_order


def sample_with_opencv(
    path: Path,
    *,
    wanted: int,
    encode: Encode,
    window: Window,
    own_file: bool = False,
    only: Numbers = None,
) -> Sample:
    """`wanted` frames of the video, decoded in order. Raises `VideoError` if nothing decodes.

    `own_file`: the file may hold the part of `window` alone, see `Window.within`. `only`: the numbers of the
    frames whose pictures to make.
    """
    frames = _FramesInOrder(path)
    if own_file:
        window = window.within(frames.length())
    sample = sample_in_order(frames, wanted=wanted, encode=encode, window=window, guess=None, only=only)
    sample.decoder = f"OpenCV {cv2.__version__}"
    sample.codec, sample.fps, sample.rotation = frames.codec, frames.fps, frames.rotation
    sample.window = window
    return sample


def _silence_opencv() -> None:
    """OpenCV would print errors to the terminal; a bad file is reported once, by its id."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    older = getattr(cv2, "setLogLevel", None)
    if older:
        older(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class _FramesInOrder:
    """All frames that OpenCV reads from a file, and the file's codec, frame rate and rotation."""

    def __init__(self, path: Path) -> None:
        self._path = os.fsencode(os.path.abspath(path)).decode("utf-8", "replace")  # OpenCV takes UTF-8
        self.codec = ""
        self.fps: float | None = None
        self.rotation = 0

    def __call__(self) -> TimedFrames:
        _silence_opencv()
        capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                raise VideoError("unopenable", "OpenCV cannot open it either")
            self._describe(capture)
            origin: float | None = None
            while True:
                done, picture = capture.read()
                if not done:
                    return
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                origin = seconds if origin is None else origin
                yield seconds - origin, picture
        finally:
            capture.release()

    def length(self) -> float | None:
        """The seconds of the video, as its frames' times tell; None if it has none."""
        last: float | None = None
        for seconds, _ in self():
            last = seconds
        return None if last is None else last + 1 / (self.fps or 25)

    def _describe(self, capture: cv2.VideoCapture) -> None:
        letters = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=False)
        self.codec = letters.decode("latin-1").strip("\0 ").lower()
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = round(fps, 4) if 0 < fps < 1000 else None
        self.rotation = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
