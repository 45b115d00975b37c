"""Opening a video file with PyAV (FFmpeg), and the choice of its video stream."""

from __future__ import annotations

import os
from pathlib import Path

import av
from av.container import InputContainer

from video.sampling import VideoError

# FFmpeg's disposition bits.
_DEFAULT = 0x1
_ATTACHED_PICTURE = 0x400  # a cover picture
_TIMED_THUMBNAILS = 0x800
_STILL_IMAGE = 0x100000
# Codecs by the names of their decoders, for versions of PyAV without `canonical_name`.
_CODECS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
# FFmpeg's readers of pictures and text art, which give a video stream. Also all "..._pipe", as "png_pipe".
_PICTURE_FORMATS = frozenset({"image2", "tty", "adf", "bin", "idf", "xbin"})
# Detect the format from so many bytes. FFmpeg's default of 1 MB takes ten times as long if there is no video.
_QUICK_LOOK = {"formatprobesize": "16384"}


def open_video(path: Path) -> tuple[InputContainer, av.VideoStream]:
    """The container and its video stream, see `choose_stream`.

    Raises `VideoError`: unopenable, no video stream, codec not decodable.
    """
    container = _open(path)
    stream = choose_stream(container)
    if stream is None or stream.codec_context is None:
        container.close()
        if stream is None:
            raise VideoError("no video stream", "the file has no video stream")
        raise VideoError("codec not decodable", "no decoder here knows its codec")
    stream.codec_context.thread_count = 1  # the pool's processes share the cores; one thread gives one result
    return container, stream


def choose_stream(container: InputContainer) -> av.VideoStream | None:
    """The video stream that players show; None if it has only cover pictures.

    Of several: one that is no still picture (by its flags, or as the header says that it has one frame); then
    one with the default flag; then the one with the most pixels; then the first.
    """
    streams = streams_without_covers(container)
    return max(streams, key=_preference) if len(streams) > 1 else next(iter(streams), None)


def streams_without_covers(container: InputContainer) -> list[av.VideoStream]:
    """The video streams that are no cover pictures."""
    return [stream for stream in container.streams.video if not _disposition(stream) & _ATTACHED_PICTURE]


def _preference(stream: av.VideoStream) -> tuple[bool, bool, bool, int]:
    context, disposition = stream.codec_context, _disposition(stream)
    if context is None:  # no decoder here
        return False, False, False, 0
    moves = stream.frames != 1 and not disposition & (_TIMED_THUMBNAILS | _STILL_IMAGE)  # 0 frames: not known
    return True, moves, bool(disposition & _DEFAULT), context.width * context.height


def _disposition(stream: av.VideoStream) -> int:
    disposition = getattr(stream, "disposition", None)  # older PyAV has none
    return int(getattr(disposition, "value", disposition) or 0)


def is_video(path: Path) -> bool:
    """Whether FFmpeg opens the file and finds a video stream: not only sound, a picture or text."""
    try:
        container = _open(path, options=_QUICK_LOOK)
    except VideoError:
        return False
    with container:
        name = container.format.name
        is_picture = name.endswith("_pipe") or name in _PICTURE_FORMATS
        return not is_picture and bool(streams_without_covers(container))


def _open(path: Path, *, options: dict[str, str] | None = None) -> InputContainer:
    try:
        # The full path: FFmpeg takes the part of a name before a colon for a protocol.
        return av.open(os.path.abspath(path), metadata_errors="replace", options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("unopenable", describe_error(error)) from None


def describe_error(error: BaseException) -> str:
    """The message of a decoding library in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0]


def codec_of(stream: av.VideoStream) -> str:
    """The codec's name, whichever library decodes it."""
    codec = stream.codec_context.codec
    return str(getattr(codec, "canonical_name", None) or _CODECS.get(codec.name, codec.name))
