"""Files that the page uploads: kept for an hour for further searches, under ids that name no folder.

All together take at most a given number of bytes on disk; the oldest make room for new ones.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from demo.limits import Limits
from search import QueryError

_NAME_CHARACTERS = 120
_BLOCK = 4096  # bytes that the smallest file takes on disk


@dataclass(frozen=True)
class KeptUpload:
    """A file of ours, the name that the user knows it by, and its size on disk."""

    path: Path
    name: str
    size: int


class KeptUploads:
    """The uploads of one server. `receive` runs in the event loop, `find` in any thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._folder: Path | None = None
        self._files: dict[str, KeptUpload] = {}  # oldest first
        self._reserved = 0  # bytes of the files that arrive now

    @property
    def size(self) -> int:
        """Bytes on disk, with those that arrive now."""
        return self._reserved + sum(file.size for file in self._files.values())

    async def receive(self, chunks: AsyncIterator[bytes], *, name: str, length: int | None) -> str:
        """Store a file and return its id. `length`: its size if it is known.

        Raises `HTTPException`: 413 if it is too large, 503 if there is no room.
        """
        largest = self._limits.upload_bytes
        if length is not None and length > largest:
            raise HTTPException(413, f"the file is too large; send at most {largest / (1 << 20):g} MiB")
        reserved = _on_disk(largest if length is None else length)
        self._make_room(reserved)
        self._reserved += reserved
        upload_id = secrets.token_hex(16)
        try:
            path = self._open_folder() / upload_id
            try:
                size = await self._write(path, chunks, largest if length is None else length)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        finally:
            self._reserved -= reserved
        self._files[upload_id] = KeptUpload(path, _shown_name(name), _on_disk(size))
        asyncio.get_running_loop().call_later(self._limits.upload_keep_seconds, self._drop, upload_id)
        return upload_id

    def find(self, upload_id: object) -> KeptUpload | None:
        """The upload with that id; None for no id. Raises `QueryError` if it was deleted."""
        if upload_id is None or upload_id == "":
            return None
        file = self._files.get(upload_id) if isinstance(upload_id, str) else None
        if file is None:
            raise QueryError("the uploaded file is not there any more; upload it again")
        return file

    def close(self) -> None:
        """Delete all files."""
        self._files.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _write(self, path: Path, chunks: AsyncIterator[bytes], limit: int) -> int:
        size = 0
        with open(path, "wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise HTTPException(413, f"the file is larger than {limit:,} bytes")
                await run_in_threadpool(file.write, chunk)
        if not size:
            raise HTTPException(400, "the file is empty")
        return size

    def _make_room(self, size: int) -> None:
        for upload_id in list(self._files):
            if self.size + size <= self._limits.upload_folder_bytes:
                return
            self._drop(upload_id)
        if self.size + size > self._limits.upload_folder_bytes:
            raise HTTPException(503, "no room for uploads now; try again in a moment", {"Retry-After": "5"})

    def _drop(self, upload_id: str) -> None:
        file = self._files.pop(upload_id, None)
        if file is not None:
            file.path.unlink(missing_ok=True)

    def _open_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="hmmc-uploads-"))  # only this user can read it
        return self._folder


def upload_route(uploads: KeptUploads) -> Route:
    """POST /uploads?name=NAME: the body is the file; the answer is {"id": ...}."""

    async def receive(request: Request) -> JSONResponse:
        length = request.headers.get("content-length")
        upload_id = await uploads.receive(
            request.stream(),
            name=request.query_params.get("name", ""),
            length=None if length is None else int(length),
        )
        return JSONResponse({"id": upload_id})

    return Route("/uploads", receive, methods=["POST"])


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _shown_name(name: str) -> str:
    """The last part of a name, on one line, not longer than a heading can be."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(c if c.isprintable() else " " for c in last).strip() or "file"
    return shown if len(shown) <= _NAME_CHARACTERS else shown[: _NAME_CHARACTERS - 3] + "..."
