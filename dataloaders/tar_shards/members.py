"""The files in a tar shard, in order, from a stream that need not seek.

Python's `tarfile` ends without an error where a header is broken, and reads extended headers of any length.
Here a broken header costs the members beside it, an archive that is cut off is an error, and each size has
a limit. Names are text: nothing is ever written under them. Links, folders and devices are passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dataloaders.tar_shards.stream import ShardError

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)
_MOST_NAME_BYTES = 1 << 16
_MOST_BROKEN_BYTES = 64 << 20  # of one shard, in which no header is found
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Stream(Protocol):
    """The methods of a `ShardStream` that this file uses."""

    address: str
    position: int

    def read(self, size: int) -> bytes: ...

    def skip(self, size: int) -> None: ...


@dataclass(frozen=True)
class Member:
    """A regular file of the archive. `data` is None if nobody wanted it or it is larger than allowed."""

    name: str
    size: int
    data: bytes | None


def read_members(stream: Stream, limit_of: Callable[[str], int]) -> Iterator[Member | None]:
    """The members of an archive; None in the place of a broken header.

    `limit_of` (name) -> the largest size in bytes that is read (0: not wanted). Raises `ShardError` where the
    archive is cut off, or is none.
    """
    long_name: str | None = None
    broken = 0
    while True:
        begin = stream.position
        block = stream.read(_BLOCK)
        if block == _END:
            return
        if len(block) < _BLOCK:  # also where the end mark is absent: files of the last sample may be, too
            raise ShardError(f"{stream.address}: cut off after {stream.position:,} bytes")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            if begin == 0:
                raise ShardError(f"{stream.address}: is not a tar archive") from None
            if not broken:
                yield None
            broken += _BLOCK
            if broken > _MOST_BROKEN_BYTES:
                raise ShardError(f"{stream.address}: broken near byte {begin:,}") from None
            continue
        size = max(header.size, 0)
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            long_name = _long_name(_data(stream, size, _MOST_NAME_BYTES), header.type) or long_name
        elif header.type in _REGULAR and not header.name.endswith("/"):
            name = header.name if long_name is None else long_name
            long_name = None
            yield Member(name, size, _data(stream, size, limit_of(name)))
        else:
            if header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                long_name = None
            _data(stream, size, 0)


def _data(stream: Stream, size: int, limit: int) -> bytes | None:
    """The data of a member; None, and passed over, if there is more than the limit."""
    begin = stream.position
    padded = -(-size // _BLOCK) * _BLOCK
    data = None
    if size <= limit:
        data = stream.read(size)
        stream.skip(padded - size)
    else:
        stream.skip(padded)
    if stream.position < begin + size:
        raise ShardError(f"{stream.address}: cut off after {stream.position:,} bytes")
    return data


def _long_name(data: bytes | None, kind: bytes) -> str | None:
    """The name in a GNU or pax extended header; None if it says nothing of the name."""
    if data is None:
        return None
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
    name = None
    while data:
        digits, _, rest = data.partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits[:6]) <= len(data):
            break
        keyword, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        if keyword == b"path":
            name = value.decode("utf-8", "surrogateescape")
        data = data[int(digits) :]
    return name
