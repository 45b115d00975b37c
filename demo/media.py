"""Files of indexed videos, whole or one range of bytes. A client names an id, never a path."""

from __future__ import annotations

import email.utils
import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from search import VideoRecord

_CHUNK = 256 << 10  # bytes that are sent at once
_READ = 1 << 20
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)
_TYPES = {
    **dict.fromkeys(("mp4", "m4v", "f4v"), "video/mp4"),
    **dict.fromkeys(("mpg", "mpeg", "m1v", "m2v", "vob"), "video/mpeg"),
    **dict.fromkeys(("ts", "mts", "m2ts", "m2t"), "video/mp2t"),
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "avi": "video/x-msvideo",
    "wmv": "video/x-ms-wmv",
    "flv": "video/x-flv",
    "ogv": "video/ogg",
    "3gp": "video/3gpp",
    "3g2": "video/3gpp2",
    "gif": "image/gif",
}


def content_type(name: str) -> str:
    """The type for an extension. Only video types: a browser must not execute another kind of file."""
    return _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


class MediaFiles:
    """Opens the files of records."""

    def __init__(self) -> None:
        # Files outside of the indexed folder whose contents were compared with the index.
        self._verified: set[tuple[str, int, int, int, int]] = set()

    def open(self, record: VideoRecord) -> tuple[int, os.stat_result]:
        """A descriptor of the file of `record`, and its status. Raises `HTTPException` 404.

        Only a regular file is opened. If it is reached through a link and is outside of the indexed folder,
        its contents must still be those that were indexed: the link may point to any file by now.
        """
        if record.path is None:
            raise HTTPException(404, "the index has stored frames of this video, and no file to play")
        try:
            # O_NONBLOCK: a named pipe in the place of the file must not block.
            descriptor = os.open(record.path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError):
            raise _deleted() from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _deleted()
            if not (_is_inside(record, status) or self._is_unchanged(record, descriptor, status)):
                raise HTTPException(404, "this video is now a link to a file outside of the indexed folder")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status

    def _is_unchanged(self, record: VideoRecord, descriptor: int, status: os.stat_result) -> bool:
        """Whether the open file has the size, time and contents that were indexed."""
        if (status.st_size, status.st_mtime_ns) != (record.size, record.mtime_ns):
            return False
        key = (record.digest, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._verified:
            digest, offset = hashlib.sha256(), 0
            while data := os.pread(descriptor, _READ, offset):
                digest.update(data)
                offset += len(data)
            if digest.hexdigest() != record.digest:
                return False
            self._verified.add(key)
        return True


def _is_inside(record: VideoRecord, status: os.stat_result) -> bool:
    """Whether the open file is at its own path without links, or elsewhere in the indexed folder."""
    assert record.path is not None
    real = os.path.realpath(record.path)
    if real != record.path and not Path(real).is_relative_to(record.source):
        return False
    try:
        # Of the path that was checked: a link swapped in since then is not followed.
        checked = os.stat(real, follow_symlinks=False)
    except OSError:
        return False
    return (checked.st_dev, checked.st_ino) == (status.st_dev, status.st_ino)


def _deleted() -> HTTPException:
    return HTTPException(404, "the file of this video was deleted after indexing, or moved")


class _OpenFileResponse(StreamingResponse):
    """Sends a range of an open file, and always closes the file.

    Starlette's FileResponse opens a file by its name, which may be another file by now. If the file grows
    meanwhile, it sends more bytes than Content-Length.
    """

    def __init__(self, descriptor: int, part: range, *, status: int, headers: Mapping[str, str]) -> None:
        self._descriptor = descriptor
        super().__init__(_chunks(descriptor, part.start, len(part)), status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


async def _chunks(descriptor: int, start: int, length: int) -> AsyncIterator[bytes]:
    while length > 0:
        data = await run_in_threadpool(os.pread, descriptor, min(_CHUNK, length), start)
        if not data:
            return  # the file was cut off meanwhile: the server then ends the connection
        start, length = start + len(data), length - len(data)
        yield data


async def video_response(files: MediaFiles, record: VideoRecord, request: Request) -> Response:
    """The file of `record`, or the range that the request asks for. Raises `HTTPException` 404 or 416."""
    descriptor, status = await run_in_threadpool(files.open, record)
    try:
        size, request_headers = status.st_size, request.headers
        etag = f'"{status.st_mtime_ns:x}-{size:x}"'
        modified = email.utils.formatdate(status.st_mtime, usegmt=True)
        headers = {"ETag": etag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
        headers["Cache-Control"] = "private, no-cache"
        if _matches(etag, request_headers.get("if-none-match", "")):
            os.close(descriptor)
            return Response(status_code=304, headers=headers)
        is_current = request_headers.get("if-range", "").strip() in ("", etag, modified)
        byte_range = _single_range(request_headers.get("range", ""), size) if is_current else None
        if byte_range is None:
            http_status, part = 200, range(size)
        elif byte_range:
            http_status, part = 206, byte_range
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        else:
            headers["Content-Range"] = f"bytes */{size}"
            raise HTTPException(416, f"the file has {size} bytes", headers)
        headers |= {"Content-Length": str(len(part)), "Content-Type": content_type(record.path or "")}
        sent = part[:0] if request.method == "HEAD" else part
        return _OpenFileResponse(descriptor, sent, status=http_status, headers=headers)
    except HTTPException:
        os.close(descriptor)
        raise


def _single_range(value: str, size: int) -> range | None:
    """The bytes that a Range header asks for of a file of `size` bytes, empty if there are none.

    None: send the whole file. That is the answer to several ranges and to malformed ones, as RFC 9110 allows.
    """
    match = _RANGE.fullmatch(value)
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(size - 1, int(last)) if first and last else size - 1
    return range(start, end + 1)


def _matches(etag: str, if_none_match: str) -> bool:
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return if_none_match.strip() == "*" or etag in tags


def jpeg_response(jpeg: bytes, request: Request) -> Response:
    """A thumbnail, which clients may keep for a while."""
    etag = f'"{hashlib.sha256(jpeg).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=600"}
    if _matches(etag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(jpeg, media_type="image/jpeg", headers=headers)
