"""Files of indexed videos, whole or a range of them. A client names an id, never a path."""

from __future__ import annotations

import email.utils
import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from search import VideoRecord

_CHUNK = 256 << 10
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
    """By the extension; bytes of no kind where it is not a common one."""
    return _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


class MediaFiles:
    """Opens the files of records."""

    def __init__(self) -> None:
        self._known: set[tuple[str, int, int, int, int]] = set()  # links whose files are what was indexed

    def open(self, record: VideoRecord) -> tuple[int, os.stat_result]:
        """A descriptor of the file of `record`, and its status. Raises `HTTPException` 404.

        Only a regular file. One that is reached through a link and lies outside of the folder that was
        indexed must still be what was indexed, for a link can be turned to any file meanwhile.
        """
        if record.path is None:
            raise HTTPException(404, "the index has stored frames of this video, and no file to play")
        try:
            # Not blocked by a pipe that took the place of the file.
            descriptor = os.open(record.path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError):
            raise _deleted() from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _deleted()
            if not (_lies_inside(record, status) or self._is_what_was_indexed(record, descriptor, status)):
                raise HTTPException(404, "this video is a link now to a file outside of the indexed folder")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status

    def _is_what_was_indexed(self, record: VideoRecord, descriptor: int, status: os.stat_result) -> bool:
        if (status.st_size, status.st_mtime_ns) != (record.size, record.mtime_ns):
            return False
        key = (record.digest, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._known:
            digest, place = hashlib.sha256(), 0
            while data := os.pread(descriptor, _READ, place):
                digest.update(data)
                place += len(data)
            if digest.hexdigest() != record.digest:
                return False
            self._known.add(key)
        return True


def _lies_inside(record: VideoRecord, status: os.stat_result) -> bool:
    """Whether the open file lies where its path says, without links, or elsewhere in the indexed folder."""
    assert record.path is not None
    real = os.path.realpath(record.path)
    if real != record.path and not Path(real).is_relative_to(record.source):
        return False
    try:
        there = os.stat(
            real, follow_symlinks=False
        )  # of the path that was judged: none may be swapped between
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)


def _deleted() -> HTTPException:
    return HTTPException(404, "the file of this video was deleted after indexing, or moved")


@dataclass(frozen=True)
class Part:
    """What to send of a file: `length` bytes from `start`; status 200, 206, 304 or 416; the headers."""

    status: int
    start: int
    length: int
    headers: dict[str, str] = field(default_factory=dict)


def part_of(size: int, *, etag: str, modified: str, request: Mapping[str, str]) -> Part:
    """What a request's headers ask for of a file of `size` bytes.

    Several ranges, and what is no range, get the whole file, as RFC 9110 allows.
    """
    headers = {"ETag": etag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
    if _is_known(etag, request.get("if-none-match", "")):
        return Part(304, 0, 0, headers)
    whole = Part(200, 0, size, {**headers, "Content-Length": str(size)})
    found = _RANGE.fullmatch(request.get("range", ""))
    same = request.get("if-range", "").strip() in ("", etag, modified)
    if not found or not same or not any(found.groups()):
        return whole
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return whole
    start = int(first) if first else max(0, size - int(last))
    end = min(size - 1, int(last)) if first and last else size - 1
    if start > end:
        return Part(416, 0, 0, {**headers, "Content-Range": f"bytes */{size}"})
    length = end - start + 1
    told = {"Content-Range": f"bytes {start}-{end}/{size}", "Content-Length": str(length)}
    return Part(206, start, length, {**headers, **told})


def _is_known(etag: str, told: str) -> bool:
    return told.strip() == "*" or etag in (item.strip().removeprefix("W/") for item in told.split(","))


class _FileResponse(StreamingResponse):
    """Sends a piece of an open file, which it closes in every case."""

    def __init__(self, descriptor: int, part: Part, media_type: str, *, head: bool) -> None:
        self._descriptor = descriptor
        body = _pieces(descriptor, part.start, 0 if head else part.length)
        super().__init__(body, part.status, part.headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


async def _pieces(descriptor: int, start: int, length: int) -> AsyncIterator[bytes]:
    while length > 0:
        data = await run_in_threadpool(os.pread, descriptor, min(_CHUNK, length), start)
        if not data:
            return  # cut off meanwhile: the server ends the connection
        start, length = start + len(data), length - len(data)
        yield data


async def video_response(
    files: MediaFiles, record: VideoRecord, request: Mapping[str, str], *, head: bool
) -> Response:
    """The file of `record`, or the part that the headers `request` ask for. Raises `HTTPException`."""
    descriptor, status = await run_in_threadpool(files.open, record)
    try:
        etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        modified = email.utils.formatdate(status.st_mtime, usegmt=True)
        part = part_of(status.st_size, etag=etag, modified=modified, request=request)
        headers = {**part.headers, "Cache-Control": "private, no-cache"}
        if part.status == 416:
            raise HTTPException(416, f"the file has {status.st_size} bytes", headers)
        if part.status == 304:
            os.close(descriptor)
            return Response(status_code=304, headers=headers)
        part = Part(part.status, part.start, part.length, headers)
        return _FileResponse(descriptor, part, content_type(record.path or ""), head=head)
    except HTTPException:
        os.close(descriptor)
        raise


def jpeg_response(jpeg: bytes, request: Mapping[str, str]) -> Response:
    """A thumbnail, which clients may keep for a while."""
    etag = f'"{hashlib.sha256(jpeg).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=600"}
    if _is_known(etag, request.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(jpeg, media_type="image/jpeg", headers=headers)
