"""Flip bytes in the pages of LMDB files, as bit rot does.

LMDB's page: its number (8 bytes), 2 bytes, flags (2 bytes; 2: leaf), 16 plus twice the number of its keys
(2 bytes), 2 bytes, and where each key's node lies in the page (2 bytes each). A leaf's node: the size of the
value (4 bytes), 2 bytes, the length of the key (2 bytes), the key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from dataloaders.frame_store.format import DATA_FILE

_PAGE = 4096
_LEAF = 2


def damage_leaf(store: Path, key: bytes) -> None:
    """Overwrite the flags of the leaf with `key`, so that LMDB finds a page of an unknown kind."""
    data = bytearray((store / DATA_FILE).read_bytes())
    for page, _ in _leaves_with(data, key):
        data[page + 10 : page + 12] = b"\xff\xff"
    (store / DATA_FILE).write_bytes(data)


def damage_size(store: Path, key: bytes) -> None:
    """Set the size of a key's value so that it ends far past the end of the file."""
    data = bytearray((store / DATA_FILE).read_bytes())
    for _, node in _leaves_with(data, key):
        data[node : node + 4] = b"\xff\xff\xff\xff"
    (store / DATA_FILE).write_bytes(data)


def _leaves_with(data: bytearray, key: bytes) -> Iterator[tuple[int, int]]:
    """The offsets of the leaves with `key` and of its node in them, also in old copies of the leaf."""
    found = False
    for page in range(2 * _PAGE, len(data), _PAGE):
        number, flags, lower = struct.unpack_from("<Q2xHH", data, page)
        if number != page // _PAGE or flags != _LEAF:
            continue
        for offset in struct.unpack_from(f"<{(lower - 16) // 2}H", data, page + 16):
            (length,) = struct.unpack_from("<H", data, page + offset + 6)
            if data[page + offset + 8 : page + offset + 8 + length] == key:
                found = True
                yield page, page + offset
    assert found, f"no leaf with the key {key!r}"
