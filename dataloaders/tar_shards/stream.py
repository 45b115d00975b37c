"""The bytes of one shard in order, through fsspec, over connections that die, stall or end too early.

The next block is read in a thread while the present one is used. After an error the file is opened again and
read from where the block began, by byte range where the server can, else from its start.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line
from dataloaders.tar_shards.addresses import file_system, is_remote

logger = logging.getLogger(__name__)

BLOCK = 8 << 20  # bytes of one request
_LEAST_BLOCK = 1 << 16
_NOT_THERE = (401, 403, 404, 410)


@dataclass(frozen=True)
class Patience:
    """How long to wait for bytes: seconds for a block, tries without progress, the first wait between two."""

    stall_s: float = 60.0
    tries: int = 5
    first_wait_s: float = 1.0


class ShardError(Exception):
    """A shard, or the rest of it, cannot be read. The message names it."""


class ShardStream:
    """Bytes of the shard at `address`. Raises `ShardError` when `patience` ends; no call waits longer."""

    def __init__(self, address: str, *, patience: Patience | None = None, block: int = BLOCK) -> None:
        self.address = address
        self.position = 0  # of the next byte that `read` gives
        self._patience = patience or Patience()
        self._block = block
        self._data = memoryview(b"")
        self._file = _File(address, block)
        self._ahead: _Fetch | None = None

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer only at the end of the shard."""
        if size <= len(self._data):
            return bytes(self._take(size))
        parts = []
        while size > 0 and (len(self._data) or self._fill()):
            part = self._take(min(size, len(self._data)))
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes; those far ahead are not fetched where the file can seek."""
        inside = min(size, len(self._data))
        self._take(inside)
        size -= inside
        if size > 2 * self._block and self._file.seekable:
            self._stop_ahead()
            self.position += size
            return
        while size > 0 and self._fill():
            inside = min(size, len(self._data))
            self._take(inside)
            size -= inside

    def close(self) -> None:
        self._stop_ahead()
        self._file.close()

    def _take(self, size: int) -> memoryview:
        part, self._data = self._data[:size], self._data[size:]
        self.position += size
        return part

    def _fill(self) -> bool:
        """The next block; False at the end of the shard."""
        fetch = self._ahead or _Fetch(self._file, self.position, self._block)
        self._ahead = None
        self._data = memoryview(self._finish(fetch))
        if len(self._data):
            self._ahead = _Fetch(self._file, self.position + len(self._data), self._block)
        return len(self._data) > 0

    def _finish(self, fetch: _Fetch) -> bytes:
        """The bytes of a fetch. Where it fails, new ones of smaller blocks, after longer and longer waits."""
        patience, start, size, problem = self._patience, self.position, self._block, ""
        for failures in range(patience.tries):
            if failures:
                logger.info("%s: trying again at byte %d: %s", self.address, start, problem)
                time.sleep(patience.first_wait_s * 2 ** (failures - 1))
                size = max(size // 4, _LEAST_BLOCK)
                fetch = _Fetch(self._file, start, size)
            data = fetch.result(patience.stall_s)
            if data is not None:
                return data
            problem = fetch.problem(patience.stall_s)
            self._file = _File(self.address, size, streams=self._file.streams or fetch.needs_streaming)
            if fetch.is_final:
                raise ShardError(f"{self.address}: {problem}") from fetch.error
        raise ShardError(f"{self.address}: byte {start:,}: {problem}; gave up after {patience.tries} tries")

    def _stop_ahead(self) -> None:
        """Forget the fetch that runs: its file is in use by its thread."""
        if self._ahead is not None:
            self._ahead = None
            self._file = _File(self.address, self._block, streams=self._file.streams)


class _File:
    """A file of fsspec that opens when it is first read. `streams`: the server knows no byte ranges."""

    def __init__(self, address: str, block: int, *, streams: bool = False) -> None:
        self.address = address
        self._block = block
        self.streams = streams
        self._file: Any = None
        self._position = 0

    @property
    def seekable(self) -> bool:
        return not self.streams

    def read_at(self, start: int, size: int) -> bytes:
        if self._file is None:
            self._file = self._open()
            self._position = 0
        if start != self._position and not self.streams:
            self._file.seek(start)
        elif start != self._position:
            assert start > self._position
            while self._position < start:
                passed = len(self._file.read(min(start - self._position, self._block)))
                if not passed:
                    raise EOFError("the connection ended early")
                self._position += passed
        data = b"".join(self._pieces(size))
        self._position = start + len(data)
        return data

    def _pieces(self, size: int) -> Any:
        """A file may give fewer bytes than asked for, long before its end."""
        while size > 0 and (data := self._file.read(size)):
            yield data
            size -= len(data)

    def _open(self) -> Any:
        options: dict[str, Any] = {}
        if not is_remote(self.address):
            return open(Path(self.address).expanduser(), "rb", buffering=0)
        if self.address.startswith(("http://", "https://")):
            import aiohttp

            # fsspec's own limit ends a download after five minutes. Ours is for each block.
            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None)}
        system, path = file_system(self.address, **options)
        return system.open(path, "rb", **({"block_size": 0} if self.streams else {"cache_type": "none"}))

    def close(self) -> None:
        if self._file is not None:
            with suppress(Exception):
                self._file.close()


class _Fetch(threading.Thread):
    """One block, read in a thread of its own: a read that never ends is left behind."""

    def __init__(self, file: _File, start: int, size: int) -> None:
        super().__init__(daemon=True, name="shard")
        self._file, self._start, self._size = file, start, size
        self._data: bytes | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._data = self._file.read_at(self._start, self._size)
        except Exception as error:
            self.error = error

    def result(self, limit_s: float) -> bytes | None:
        """The bytes, empty at the end of the file; None if there was an error or the limit is reached."""
        self.join(limit_s)
        if isinstance(self.error, UserError):  # a package is missing: no shard of this kind can be read
            raise self.error
        return None if self.is_alive() else self._data

    def problem(self, limit_s: float) -> str:
        error: BaseException | None = self.error
        if error is None:
            return f"no answer within {limit_s:g} s"
        if isinstance(error, FileNotFoundError) and is_remote(self._file.address):
            error = error.__cause__ or error  # what the server said
        return f"{type(error).__name__}: {one_line(error)}"

    @property
    def needs_streaming(self) -> bool:
        """Whether the server has refused a byte range."""
        return isinstance(self.error, ValueError) and "range" in str(self.error)

    @property
    def is_final(self) -> bool:
        """Whether the file is not there, or not for us: trying again does not help."""
        error = self.error
        if isinstance(error, FileNotFoundError) and is_remote(self._file.address):
            # fsspec says so of each error of an HTTP server, and of a server that does not answer.
            status = getattr(error.__cause__, "status", _NOT_THERE[0])
            about_connection = error.__cause__ is not None and isinstance(error.__cause__, OSError)
            return status in _NOT_THERE and not about_connection
        return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
