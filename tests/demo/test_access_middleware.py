"""The access middleware around small apps: what it forwards, what it answers itself, to the last header."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs requirements-search.txt")

from starlette.requests import ClientDisconnect

from demo.access_middleware import AccessMiddleware
from demo.limits import Limits, Rate
from tests.demo.asgi_client import Client

MIB = 1 << 20
SECURE = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
POLICY = b"default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'"


class App:
    """Reads the whole body, then answers with status 200 and `headers`; `received` is the body."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self._headers = headers
        self.received: list[bytes] = []
        self.scopes: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope["type"])
        more = scope["type"] == "http"
        body = b""
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.received.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": list(self._headers)})
        await send({"type": "http.response.body", "body": b"done"})


def ask(
    app: Any,
    path: str = "/page",
    *pieces: bytes,
    limits: Limits | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    method: str = "POST",
    address: str = "1.2.3.4",
) -> Client:
    """Send `pieces` as the body of one request."""
    middleware = app if limits is None else AccessMiddleware(app, limits=limits)
    client = Client(middleware, path, method=method)
    body = [*pieces, b""]
    return asyncio.run(client.send(list(headers), lambda n: body[n], address=address))


def error_of(client: Client, status: int) -> str:
    assert client.status == status and list(json.loads(client.body)) == ["error"]
    return str(json.loads(client.body)["error"])


def test_a_request_and_its_answer_pass_unchanged() -> None:
    app = App((b"x-own", b"1"), (b"x-frame-options", b"DENY"))
    client = ask(app, "/page", b"one ", b"two", limits=Limits())
    assert client.status == 200 and client.body == b"done" and app.received == [b"one two"]
    assert client.headers == SECURE | {b"x-own": b"1", b"x-frame-options": b"DENY"}


@pytest.mark.parametrize(
    "path",
    [
        *("/search", "/search/", "/similar/a", "/video/a.mp4", "/videos", "/thumbnail/a", "/health"),
        *("/uploads", "/openapi.json"),
    ],
)
def test_answers_of_the_api_load_nothing_from_other_places(path: str) -> None:
    assert ask(App(), path, limits=Limits()).headers == SECURE | {b"content-security-policy": POLICY}
    assert b"content-security-policy" not in ask(App(), f"/page{path}", limits=Limits()).headers


def test_a_server_starts_and_ends_through_it() -> None:
    app = App()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = AccessMiddleware(app, limits=Limits())
    asyncio.run(middleware({"type": "lifespan"}, _nothing, send))
    assert app.scopes == ["lifespan"] and len(sent) == 2 and sent[0]["headers"] == []


async def _nothing() -> Any:
    raise AssertionError("nothing is received")


def test_an_error_becomes_one_line_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret")

    with caplog.at_level(logging.ERROR, "demo.access_middleware"):
        client = ask(broken, limits=Limits())
    assert error_of(client, 500) == "internal error; the log of the server has the details"
    assert SECURE.items() <= client.headers.items() and b"connection" not in client.headers
    (record,) = caplog.records
    assert record.getMessage() == "a request failed" and record.exc_info is not None
    assert str(record.exc_info[1]) == "secret"


def test_an_error_after_the_start_of_the_answer_goes_on() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("half an answer")

    with pytest.raises(ValueError, match="half an answer"):
        ask(broken, limits=Limits())


def test_nobody_is_answered_who_has_gone() -> None:
    async def left(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    assert ask(left, limits=Limits()).status == 0


@pytest.mark.parametrize(
    ("path", "most"), [("/search", 300), ("/uploads", 300), ("/uploads/", 300), ("/page", 100)]
)
def test_bodies_are_limited_by_their_route(path: str, most: int) -> None:
    limits = Limits(body_bytes=300, other_body_bytes=100)
    app = App()
    half = bytes(most // 2)
    assert ask(app, path, half, half, limits=limits).status == 200 and app.received == [2 * half]
    client = ask(app, path, half, half, b"x", limits=limits)
    assert error_of(client, 413) == f"the request is too large; send at most {most / MIB:g} MiB"
    assert client.headers[b"connection"] == b"close" and len(app.received) == 1
    told = ask(app, path, limits=limits, headers=((b"content-length", str(most).encode()),))
    assert told.status == 200
    refused = ask(app, path, limits=limits, headers=((b"content-length", str(most + 1).encode()),))
    assert error_of(refused, 413) == error_of(client, 413) and refused.pieces == 0
    assert refused.headers[b"connection"] == b"close"


def test_an_answer_that_an_app_makes_of_a_refused_body_is_not_sent() -> None:
    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):  # the second time nothing more is read
            with pytest.raises(Exception, match=r"^$"):
                await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})

    client = ask(stubborn, "/page", b"too long", limits=Limits(other_body_bytes=3))
    assert error_of(client, 413).startswith("the request is too large") and client.pieces == 1


def test_an_answer_may_come_before_the_body() -> None:
    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        with pytest.raises(Exception, match=r"^$"):
            await receive()
        await send({"type": "http.response.body", "body": b"early"})

    client = ask(hasty, "/page", b"too long", limits=Limits(other_body_bytes=3))
    assert client.status == 201 and client.body == b"early"


@pytest.mark.parametrize("length", [b"", b"-1", b"1.5", "١".encode(), b"1e3"])
def test_lengths_that_are_no_numbers(length: bytes) -> None:
    client = ask(App(), limits=Limits(), headers=((b"content-length", length),))
    assert error_of(client, 400) == "Content-Length: give the number of bytes"
    assert client.headers[b"connection"] == b"close"


def test_a_length_with_many_zeros_is_a_number() -> None:
    zeros = ((b"content-length", b"0" * 30 + b"4"),)
    assert ask(App(), "/page", b"four", limits=Limits(), headers=zeros).status == 200
    nines = ((b"content-length", b"9" * 18),)
    assert ask(App(), limits=Limits(other_body_bytes=10**19), headers=nines).status == 200
    more = ((b"content-length", b"9" * 19),)
    assert ask(App(), limits=Limits(other_body_bytes=10**20), headers=more).status == 413


def test_a_body_has_a_time_and_what_follows_it_has_not() -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b""
        await asyncio.sleep(0.15)
        assert (await receive()) == {"type": "http.disconnect"}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    middleware = AccessMiddleware(waits, limits=Limits(body_seconds=0.1))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/page",
        "headers": [(b"host", b"localhost")],
        "client": ("1.2.3.4", 1),
    }
    asyncio.run(middleware(scope, receive, send))
    assert statuses == [200, 0]

    async def late(scope: Any, receive: Any, send: Any) -> None:
        async def later() -> Any:
            await asyncio.sleep(0.3)
            return await receive()

        await AccessMiddleware(App(), limits=Limits(body_seconds=0.05))(scope, later, send)

    client = ask(late)
    assert error_of(client, 408) == "the request took too long to arrive"
    assert client.headers[b"connection"] == b"close"


LARGE = ((b"content-length", str(MIB + 1).encode()),)


@pytest.mark.parametrize(
    ("headers", "large"),
    [
        (LARGE, True),
        (((b"transfer-encoding", b"chunked"),), True),
        (((b"content-length", str(MIB).encode()),), False),
        ((), False),
    ],
)
def test_large_requests_take_a_slot(headers: tuple[tuple[bytes, bytes], ...], large: bool) -> None:
    limits = Limits(uploads=2, client_uploads=1)
    middleware = AccessMiddleware(App(), limits=limits)

    async def four() -> list[Client]:
        async def one(address: str) -> Client:
            gate = asyncio.Event()
            asyncio.get_running_loop().call_later(0.05, gate.set)

            async def slow(scope: Any, receive: Any, send: Any) -> None:
                async def after_a_while() -> Any:
                    await gate.wait()
                    return await receive()

                await middleware(scope, after_a_while, send)

            return await Client(slow, "/search").send(list(headers), lambda n: b"", address=address)

        return list(await asyncio.gather(one("1.1.1.1"), one("1.1.1.1"), one("2.2.2.2"), one("3.3.3.3")))

    for _ in range(2):  # the slots are free again
        clients = asyncio.run(four())
        assert [client.status for client in clients] == ([200, 503, 200, 503] if large else [200] * 4)
        for client in clients:
            if client.status == 503:
                assert error_of(client, 503) == "too many uploads at once; try again in a moment"
                assert client.headers[b"retry-after"] == b"5"
                assert client.headers[b"connection"] == b"close"


def test_a_slot_is_free_again_after_an_error() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError

    middleware = AccessMiddleware(broken, limits=Limits(uploads=1, client_uploads=1))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            ask(middleware, headers=LARGE, path="/search")


def test_searches_and_other_requests_have_rates_of_their_own() -> None:
    limits = Limits(search_rate=Rate(0.01, 1), other_rate=Rate(0.01, 2), clients=2)
    middleware = AccessMiddleware(App(), limits=limits)
    assert [ask(middleware, "/search").status for _ in range(2)] == [200, 429]
    assert [ask(middleware, "/page").status for _ in range(3)] == [200, 200, 429]
    refused = ask(middleware, "/page")
    assert error_of(refused, 429) == "too many requests; wait a moment"
    assert 90 < int(refused.headers[b"retry-after"]) <= 100
    # Two clients are remembered; the third makes the first a new one.
    for address in ("2.2.2.2", "3.3.3.3", "1.2.3.4"):
        assert [ask(middleware, path, address=address).status for path in ("/search", "/page")] == [200, 200]


def test_this_computer_has_no_rate() -> None:
    middleware = AccessMiddleware(App(), limits=Limits(other_rate=Rate(0.01, 1)))
    assert [ask(middleware, address="127.0.0.1").status for _ in range(3)] == [200] * 3


def test_clients_without_an_address_count_as_one() -> None:
    middleware = AccessMiddleware(App(), limits=Limits(other_rate=Rate(0.01, 2)))

    async def status(client: tuple[str, int] | None) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "GET", "path": "/page", "headers": [(b"host", b"localhost")]}
        await middleware(scope if client is None else scope | {"client": client}, receive, send)
        return int(sent[0]["status"])

    clients = (("1.2.3.4", 0), None, ("5.6.7.8", 0), ("5.6.7.8", 1))
    assert [asyncio.run(status(client)) for client in clients] == [200, 200, 429, 200]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((b"LOCALHOST:7860", 200), (b"localhost:", 200), (b"localhost:0", 200), (b"", 400)),
        *((b"[::1]:1", 200), (b"[::1]", 200)),
        *((b"localhost:-1", 400), (b"localhost:1:2", 400), (b"localhost:x", 400), (b"::1", 400)),
    ],
)
def test_hosts(host: bytes, status: int) -> None:
    async def with_host(scope: Any, receive: Any, send: Any) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        await AccessMiddleware(App(), limits=Limits())(
            scope | {"headers": [(b"host", host), *headers]}, receive, send
        )

    client = ask(with_host)
    assert client.status == status
    if status == 400:
        assert error_of(client, 400) == f"host {host.decode()!r}: this server does not answer to that name"


def test_any_host_if_that_is_meant() -> None:
    assert ask(App(), limits=Limits(hosts=("*",))).status == 200
    assert error_of(ask(App(), limits=Limits(hosts=("XX",))), 400).startswith("host 'localhost:7860'")


def test_pages_of_other_sites_are_refused() -> None:
    client = ask(App(), limits=Limits(), headers=((b"origin", b"http://evil.example"),))
    assert error_of(client, 403) == "requests from pages of other sites are refused"
    assert client.headers[b"connection"] == b"close"


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(AccessMiddleware(App(), limits=Limits())({"type": "websocket"}, _nothing, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("headers", "shown"), [((), "''"), (((b"host", b"b" * 100),), repr("b" * 80))], ids=["none", "long"]
)
def test_hosts_that_are_absent_or_long(headers: tuple[tuple[bytes, bytes], ...], shown: str) -> None:
    async def with_host(scope: Any, receive: Any, send: Any) -> None:
        await AccessMiddleware(App(), limits=Limits())(scope | {"headers": list(headers)}, receive, send)

    assert error_of(ask(with_host), 400).startswith(f"host {shown}: ")


def test_what_gradio_would_answer_is_not_found() -> None:
    client = ask(App(), "/gradio_api/info", limits=Limits(), method="GET")
    assert error_of(client, 404) == "not found"
    assert ask(App(), "/search/login", limits=Limits()).status == 200  # a route of ours
