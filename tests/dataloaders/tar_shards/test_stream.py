"""Bytes of shards from disk, from a real HTTP server that breaks, and from a real S3 server."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from dataloaders.tar_shards import stream as stream_module
from dataloaders.tar_shards.stream import ShardError, ShardStream
from tests.dataloaders.tar_shards.http_server import Server, serving
from tests.dataloaders.tar_shards.shards import HASTY

DATA = random.Random(0).randbytes(300_000)
BLOCK = 1 << 16


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"a.tar": DATA}) as found:
        yield found


def read_all(address: str, *, piece: int = 50_001, block: int = BLOCK) -> bytes:
    stream = ShardStream(address, patience=HASTY, block=block)
    try:
        parts = []
        while part := stream.read(piece):
            parts.append(part)
        assert stream.position == sum(map(len, parts))
        return b"".join(parts)
    finally:
        stream.close()


def test_from_disk(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(DATA)
    assert read_all(str(tmp_path / "a.tar")) == DATA
    with pytest.raises(ShardError, match="b.tar: FileNotFoundError"):
        read_all(str(tmp_path / "b.tar"))


@pytest.mark.parametrize("ranges", [True, False])
def test_from_http(server: Server, ranges: bool) -> None:
    server.ranges = ranges
    assert read_all(f"{server.address}/a.tar?token=1") == DATA


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_dies_is_continued(server: Server, ranges: bool) -> None:
    server.ranges, server.ends_after = ranges, 70_000 if ranges else None
    if not ranges:  # from the start each time, so it must get through at last
        server.refusals = 2
    assert read_all(f"{server.address}/a.tar", block=1 << 18) == DATA
    if ranges:
        starts = {int(asked.partition("=")[2].partition("-")[0]) for _, asked in server.gets}
        assert max(starts) > 200_000  # not from the start again


def test_a_stalled_connection_is_given_up_in_time(server: Server) -> None:
    server.stalls_after = 1000
    started = time.monotonic()
    with pytest.raises(ShardError, match=r"a.tar: byte 0: no answer within 0.5 s; gave up after 3 tries"):
        read_all(f"{server.address}/a.tar")
    assert time.monotonic() - started < 15


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    server.refusals = 4  # HEAD and GET of two tries
    assert read_all(f"{server.address}/a.tar") == DATA


def test_a_missing_file_is_not_asked_for_again(server: Server) -> None:
    with pytest.raises(ShardError, match="b.tar: ClientResponseError: 404"):
        read_all(f"{server.address}/b.tar")
    assert len(server.gets) == 1


def test_a_server_that_is_away_is_an_error(server: Server) -> None:
    with pytest.raises(ShardError, match="gave up after 3 tries"):
        read_all("http://127.0.0.1:9/a.tar")


def test_what_is_skipped_far_ahead_is_not_fetched(server: Server) -> None:
    stream = ShardStream(f"{server.address}/a.tar", patience=HASTY, block=1 << 14)
    assert stream.read(10) == DATA[:10]
    stream.skip(250_000)
    assert stream.read(7) == DATA[250_010:250_017] and stream.position == 250_017
    stream.skip(60_000)
    assert stream.read(1) == b""
    stream.close()
    fetched = [int(asked.partition("=")[2].partition("-")[0]) for _, asked in server.gets]
    assert not [start for start in fetched if 100_000 < start < 250_000]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # fsspec keeps what it has imported, as s3fs in another test.
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs:// needs gcsfs: pip install gcsfs"):
        read_all("gs://bucket/a.tar")


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(UserError, match="htp://host/a.tar"):
        read_all("htp://host/a.tar")


def test_blocks_are_read_ahead_in_the_background(server: Server) -> None:
    stream = ShardStream(f"{server.address}/a.tar", patience=HASTY, block=BLOCK)
    stream.read(1)
    end = time.monotonic() + 10
    while len(server.gets) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(server.gets) == 2
    stream.close()
    assert stream_module.BLOCK > BLOCK
