"""The server's connections: late headers are given up, one client cannot take them all."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs requirements-search.txt")

from demo.connections import limited_protocol
from demo.limits import Limits
from tests.demo.browser import serve

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once; "/hold" does not end its answer before the client is gone."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/hold":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"held", "more_body": True})
        await receive()  # the request
        await receive()  # its end
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def server(**limits: Any) -> Iterator[tuple[str, int]]:
    with serve(app, http=limited_protocol(Limits(**limits))) as address:
        yield "127.0.0.1", int(address.rpartition(":")[2])


def connect(address: tuple[str, int], data: bytes = b"", *, source: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection(address, timeout=10, source_address=(source, 0))
    client.sendall(data)
    return client


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    data = b""
    try:
        while piece := client.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


def received(client: socket.socket) -> bytes:
    """One answer, or what came before the server closed the connection."""
    data = b""
    while not data.endswith(b"ok") and (piece := client.recv(1 << 16)):
        data += piece
    return data


def hold(address: tuple[str, int]) -> socket.socket:
    """A connection whose request is in progress."""
    client = connect(address, REQUEST.replace(b"GET /", b"GET /hold"))
    data = b""
    while b"held" not in data:
        data += client.recv(1 << 16)
    return client


def answer(address: tuple[str, int], **more: Any) -> bytes:
    """What a whole request gets."""
    with connect(address, REQUEST, **more) as client:
        return received(client)


def test_half_a_header_is_given_up() -> None:
    with server(header_seconds=0.3) as address:
        begun = time.monotonic()
        with connect(address, REQUEST[:-2]) as half, connect(address) as silent:
            assert rest(half).startswith(b"HTTP/1.1 408") and rest(silent) == b""
        assert time.monotonic() - begun < 5
        with connect(address, REQUEST[:-2]) as slow:  # a byte now and then does not help
            for _ in range(6):
                time.sleep(0.1)
                try:
                    slow.sendall(b"a")
                except OSError:
                    break
            assert b"408" in rest(slow)


def test_a_second_request_and_a_body_nobody_reads_have_the_same_limit() -> None:
    with server(header_seconds=0.3) as address:
        with connect(address, REQUEST) as client:
            assert received(client).startswith(b"HTTP/1.1 200")
            client.sendall(REQUEST)
            assert received(client).startswith(b"HTTP/1.1 200")
            client.sendall(REQUEST[:10])
            assert b"408" in rest(client)
        with connect(address, POST) as client:
            assert received(client).startswith(b"HTTP/1.1 200")
            begun = time.monotonic()
            client.sendall(b"x")
            assert rest(client) == b"" and time.monotonic() - begun < 3


def test_an_answer_may_take_longer_than_a_header() -> None:
    with server(header_seconds=0.2) as address, hold(address) as client:
        client.settimeout(0.6)
        with pytest.raises(TimeoutError):
            rest(client)


def test_half_sent_requests_keep_nobody_out() -> None:
    with server(header_seconds=30, connections=20, client_connections=8) as address, ExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
            for _ in range(12):
                stack.enter_context(connect(address, REQUEST[:-2], source=source))
        for source in ("127.0.0.1", "127.0.0.9"):
            assert answer(address, source=source).startswith(b"HTTP/1.1 200")


def test_one_client_has_so_many_requests_at_once() -> None:
    with server(connections=20, client_connections=3) as address, ExitStack() as stack:
        held = [stack.enter_context(hold(address)) for _ in range(3)]
        with connect(address) as fourth:
            assert b"too many open connections" in rest(fourth)
        assert answer(address, source="127.0.0.2").startswith(b"HTTP/1.1 200")
        held[0].close()
        for _ in range(50):
            try:
                if answer(address).startswith(b"HTTP/1.1 200"):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        pytest.fail("a closed connection is still counted")
