"""The access middleware: hosts, rates, sizes and durations of bodies, headers, blocked routes of gradio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from demo.access_middleware import AccessMiddleware, is_costly
from demo.app import create_app
from demo.gradio_access import is_blocked_route
from demo.limits import Limits, Rate
from search import Retriever
from tests.demo.asgi_client import Client
from tests.demo.conftest import LIMITS, Served, client_of
from tests.demo.test_api import error_of

GIB = 1 << 30
FORM = [(b"content-type", b"multipart/form-data; boundary=x")]
START = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'


@pytest.fixture(scope="module")
def app(served: Served, retriever: Retriever) -> FastAPI:
    return create_app(served.index, retriever, LIMITS)


def test_two_gigabytes_are_refused_before_they_are_sent(app: FastAPI) -> None:
    length = [(b"content-length", str(2 * GIB).encode())]
    client = asyncio.run(Client(app).send(FORM + length, lambda n: START))
    assert client.status == 413 and client.pieces == 0
    assert client.body == b'{"error":"the request is too large; send at most 65 MiB"}'
    assert client.headers[b"connection"] == b"close"


@pytest.mark.parametrize("path", ["/search", "/uploads", "/gradio_api/queue/join"])
@pytest.mark.parametrize("length", [[(b"transfer-encoding", b"chunked")], [(b"content-length", b"10")], []])
def test_bytes_are_counted_whatever_the_length_says(
    path: str, length: list[tuple[bytes, bytes]], served: Served, retriever: Retriever
) -> None:
    async def reader(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        raise AssertionError("the body ended")

    limits = Limits(body_bytes=1 << 20)
    ours = path != "/gradio_api/queue/join"
    app = create_app(served.index, retriever, limits) if ours else AccessMiddleware(reader, limits=limits)
    chunk = bytes(64 << 10)
    client = asyncio.run(Client(app, path).send(FORM + length, lambda n: chunk if n else START))
    assert client.status == 413 and (b"send at most 1 MiB" in client.body or b"10 bytes" in client.body)
    assert client.pieces <= 18


@pytest.mark.parametrize("length", [b"-1", b"abc", b"1e3", b"9" * 5000, b"\xb2"])
def test_odd_lengths(length: bytes, app: FastAPI) -> None:
    client = asyncio.run(Client(app).send([*FORM, (b"content-length", length)], lambda n: b""))
    assert client.status == (413 if length.isdigit() else 400) and client.pieces == 0


def test_a_body_that_does_not_come_is_given_up(served: Served, retriever: Retriever) -> None:
    app = create_app(served.index, retriever, Limits(body_seconds=0.2))
    started = time.monotonic()
    client = asyncio.run(Client(app).send(FORM, lambda n: None if n else START))
    assert client.status == 408 and b"took too long" in client.body
    assert time.monotonic() - started < 10


def test_few_large_requests_at_once(served: Served, retriever: Retriever) -> None:
    app = create_app(served.index, retriever, Limits(uploads=3, client_uploads=2, body_seconds=0.5))
    large = [(b"content-length", b"2000000")]

    async def several() -> list[int]:
        addresses = ["1.1.1.1"] * 3 + ["2.2.2.2"] * 2
        clients = [
            Client(app).send(FORM + large, lambda n: None if n else START, address=address)
            for address in addresses
        ]
        return [client.status for client in await asyncio.gather(*clients)]

    assert asyncio.run(several()) == [408, 408, 503, 408, 503]
    assert asyncio.run(several()) == [408, 408, 503, 408, 503]  # all slots are free again


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            ("localhost", 200),
            ("LocalHost:7860", 200),
            ("127.0.0.1:80", 200),
            ("[::1]:7860", 200),
            ("[::1]", 200),
        ),
        *(("evil.example", 400), ("localhost.evil.example", 400), ("", 400), ("127.0.0.1.nip.io:7860", 400)),
        *(("localhost:evil", 400), ("localhost@evil.example", 400), ("::1", 400), ("videos.lan:7860", 400)),
    ],
)
def test_other_names_of_the_host_are_not_answered(host: str, status: int, client: TestClient) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert "does not answer to that name" in answer.json()["error"]


def test_more_hosts_can_be_allowed(served: Served, retriever: Retriever) -> None:
    for hosts in (("videos.LAN",), ("*",)):
        with client_of(served, retriever, Limits(hosts=hosts)) as client:
            assert client.get("/health", headers={"Host": "Videos.lan:80"}).status_code == 200


def test_searches_are_rated_by_client(served: Served, retriever: Retriever) -> None:
    limits = Limits(search_rate=Rate(0.001, 3), other_rate=Rate(0.001, 5))
    with client_of(served, retriever, limits) as client:
        assert [client.get("/search?q=a").status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = client.get(
            "/similar/red.mp4", headers={"X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9.9.9.9"}
        )
        assert "too many requests" in error_of(refused, 429)
        assert 900 <= int(refused.headers["retry-after"]) <= 1000
        codes = [client.get("/thumbnail/red.mp4").status_code for _ in range(6)]
        assert codes == [200] * 5 + [429]


def test_addresses_from_a_header_are_one_client(served: Served, retriever: Retriever) -> None:
    """uvicorn gives them to the app with port 0."""
    app = create_app(served.index, retriever, Limits(other_rate=Rate(0.001, 2)))

    async def status(number: int) -> int:
        scope_of = ProxyHeadersMiddleware(app, trusted_hosts="*")
        client = Client(scope_of, "/health", method="GET")
        return (await client.send([(b"x-forwarded-for", b"9.9.9.%d" % number)], lambda n: b"")).status

    async def several() -> list[int]:
        return [await status(number) for number in range(3)]

    pytest.importorskip("uvicorn", reason="needs requirements-search.txt")
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    assert asyncio.run(several()) == [200, 200, 429]


OTHER_SITES: tuple[dict[str, str], ...] = (
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:3000"},  # another program of this computer
    {"Origin": "http://[", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
)


@pytest.mark.parametrize("path", ["/search", "/uploads", "/gradio_api/queue/join", "/gradio_api/upload", "/"])
def test_pages_of_other_sites_change_and_store_nothing(path: str, client: TestClient) -> None:
    for headers in OTHER_SITES:
        refused = client.post(path, headers=headers, files={"image": b"x"})
        assert error_of(refused, 403) == "requests from pages of other sites are refused", headers


def test_other_sites_may_link_and_programs_may_post(client: TestClient) -> None:
    search = {"data": {"q": "a dog"}}
    own = (
        {},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"},
    )
    behind_proxy = {"Origin": "https://localhost", "Sec-Fetch-Site": "same-origin"}
    for headers in (*own, behind_proxy):
        assert client.post("/search", headers=headers, **search).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/health", headers=link).status_code == 200
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/search?q=a", headers=embedded).status_code == 403


def test_this_computer_has_no_rate(served: Served, retriever: Retriever) -> None:
    app = create_app(served.index, retriever, Limits(search_rate=Rate(0.001, 1), other_rate=Rate(0.001, 1)))

    async def codes(address: str) -> list[int]:
        clients = [Client(app, method="GET", query=b"q=a") for _ in range(3)]
        return [(await client.send([], lambda n: b"", address=address)).status for client in clients]

    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert asyncio.run(codes(address)) == [200, 200, 200]
    for address in ("1.2.3.4", "2001:db8::1", "localhost"):
        assert asyncio.run(codes(address)) == [200, 429, 429]


def test_a_hundred_clients_are_all_served(served: Served, retriever: Retriever) -> None:
    app = create_app(served.index, retriever)

    async def several() -> list[int]:
        clients = [Client(app, method="GET", query=b"q=a") for _ in range(100)]
        sent = (c.send([], lambda n: b"", address=f"10.0.0.{i}") for i, c in enumerate(clients))
        return [client.status for client in await asyncio.gather(*sent)]

    assert asyncio.run(several()) == [200] * 100


def test_headers_of_every_answer(client: TestClient) -> None:
    for path in ("/health", "/video/red.mp4", "/thumbnail/red.mp4", "/nothing", "/search"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert ("content-security-policy" in headers) == (path != "/nothing")
    crossed = client.get("/health", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in crossed.headers
    assert client.options("/search", headers={"Origin": "http://evil.example"}).status_code == 405


def test_gradio_routes() -> None:
    for path in (
        *(
            *("/gradio_api/file=/etc/passwd", "/file/x", "/gradio_api/upload", "/gradio_api/upload_progress"),
            "/gradio_api/proxy=http://a",
            "/gradio_api/component_server",
            "/gradio_api/vibe-code/",
            "/dev/reload",
        ),
        *(
            "/gradio_api/run/predict",
            "/gradio_api/call/x",
            "/gradio_api/stream/a/close",
            "/monitoring/summary",
        ),
        *("/gradio_api/runs", "/gradio_api/deep_link", "/gradio_api/info", "/login", "/gradio_api/api/x"),
    ):
        assert is_blocked_route(path), path
    for path in (
        *("/", "/config", "/theme.css", "/assets/index.js", "/static/img/logo.svg", "/uploads"),
        *("/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/heartbeat/x", "/video/file=a.mp4"),
        *("/thumbnail/runs/a.mp4", "/videos/proxy=x", "/similar/login", "/runsheet"),
    ):
        assert not is_blocked_route(path), path
    costly = ("/search", "/similar/a", "/gradio_api/queue/join", "/uploads")
    assert all(is_costly(path) for path in costly)
    assert not any(is_costly(path) for path in ("/", "/video/search", "/gradio_api/queue/data", "/searching"))


def test_what_is_mounted_is_behind_the_middleware(served: Served, retriever: Retriever) -> None:
    gradio = pytest.importorskip("gradio", reason="needs requirements-search.txt")
    secret = Path(os.getcwd(), "README.md")
    with gradio.Blocks(analytics_enabled=False) as blocks:
        gradio.HTML("page")
    app = gradio.mount_gradio_app(create_app(served.index, retriever, LIMITS), blocks, path="/")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        page = client.get("/")
        assert page.status_code == 200 and page.headers["x-frame-options"] == "SAMEORIGIN"
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
        assert error_of(client.get(f"/gradio_api/file={secret}"), 404) == "not found"
        assert client.get("/health").json()["videos"] == 4
        assert error_of(client.delete("/search"), 405) and error_of(client.get("/uploads"), 405)
        assert error_of(client.get("/video/unknown"), 404)
        upload = {"files": ("a.png", b"picture")}
        assert error_of(client.post("/gradio_api/upload", files=upload), 404) == "not found"


def test_websockets_are_closed(app: FastAPI) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    def connect() -> Awaitable[None]:
        return app({"type": "websocket", "path": "/search", "headers": []}, receive, send)

    with contextlib.suppress(RuntimeError):
        asyncio.run(_done(connect()))
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def _done(work: Awaitable[None]) -> None:
    await work
