"""What every request passes, for the API and for the page alike: an ASGI middleware.

Names of the host, rates, sizes and times of bodies, closed routes; headers of every answer; errors of the
program as one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.errors import error_response
from demo.gradio_routes import OUR_OWN, is_closed, is_costly
from demo.limits import Limits
from demo.rates import Buckets, Large, client_of

logger = logging.getLogger(__name__)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = "default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'"
_MB = 1 << 20
_LARGE = 1 << 20  # bytes of a body that counts as an upload


class Gate:
    """The middleware. Only HTTP passes; nothing here needs a websocket."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._hosts = {host.lower() for host in limits.hosts}
        self._search = Buckets(limits.search_rate, clients=limits.clients)
        self._other = Buckets(limits.other_rate, clients=limits.clients)
        self._large = Large(most=limits.uploads, most_each=limits.client_uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, _with_headers(send, scope["path"]))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope)
        if refused:
            status, message, headers = refused
            await error_response(status, message, headers)(scope, receive, send)
            return
        client = _client(scope)
        if not _is_large(Headers(scope=scope)):
            await self._pass(scope, receive, send)
        elif self._large.enter(client):
            try:
                await self._pass(scope, receive, send)
            finally:
                self._large.leave(client)
        else:
            headers = {"Retry-After": "5", "Connection": "close"}
            await error_response(503, "too many uploads at once; try again in a moment", headers)(
                scope, receive, send
            )

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(receive, limit=self._limits.body_bytes, seconds=self._limits.body_seconds)
        answer = _Answer(send, body)
        try:
            await self._app(scope, body.receive, answer.send)
        except ClientDisconnect:
            return
        except Exception:
            if answer.started:
                raise
            if not body.refusal:
                logger.exception("a request failed")
                failed = "something went wrong here; the log of the server says what"
                await error_response(500, failed)(scope, receive, send)
                return
        if body.refusal and not answer.started:
            status, message = body.refusal
            await error_response(status, message, {"Connection": "close"})(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if "*" not in self._hosts and _name(host) not in self._hosts:
            return 400, f"host {host[:80]!r}: this server does not answer to that name", {}
        wait = (self._search if is_costly(scope["path"]) else self._other).take(_client(scope))
        if wait:
            return 429, "too many requests; wait a moment", {"Retry-After": str(math.ceil(wait))}
        if is_closed(scope["path"]):
            return 404, "not found", {}
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return 400, "Content-Length: give the number of bytes", {"Connection": "close"}
        # Compared as text first: Python refuses to read numbers of thousands of digits.
        if len(length.lstrip("0")) > 18 or int(length) > self._limits.body_bytes:
            return 413, _too_large(self._limits.body_bytes), {"Connection": "close"}
        return None


class _Body:
    """A request's body, counted as it comes."""

    def __init__(self, receive: Receive, *, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._until = time.monotonic() + seconds
        self._bytes = 0
        self._whole = False
        self.refusal: tuple[int, str] | None = None

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        if self.refusal:
            raise _BodyRefused
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError):
            self.refusal = 408, "the request took too long to arrive"
            raise _BodyRefused from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._limit:
            self.refusal = 413, _too_large(self._limit)
            raise _BodyRefused
        return message


class _BodyRefused(Exception):
    """Ends the reading of a body; what the routes make of it is not sent."""


class _Answer:
    """Sends an answer on, unless the body was refused before the answer started."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send = send
        self._body = body
        self.started = False

    async def send(self, message: Message) -> None:
        if self._body.refusal and not self.started:
            return
        self.started = True
        await self._send(message)


def _with_headers(send: Send, path: str) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if OUR_OWN.match(path):
                headers.setdefault("Content-Security-Policy", _POLICY)
        await send(message)

    return wrapped


def _client(scope: Scope) -> str:
    host, port = scope.get("client") or ("", 0)
    # uvicorn, unless told not to, puts what X-Forwarded-For says there, with port 0. Whatever it says is one
    # client, or everybody could be a new one with each request.
    return client_of(host) if port else "forwarded"


def _is_large(headers: Headers) -> bool:
    """Whether a body is large, or of a length that is not told."""
    length = headers.get("content-length")
    return "transfer-encoding" in headers if length is None else int(length) > _LARGE


def _name(host: str) -> str:
    """The Host header without its port."""
    name, colon, port = host.rpartition(":")
    with contextlib.suppress(ValueError):
        if colon and (not port or int(port) >= 0) and not (host.endswith("]")):
            host = name
    return host.lower()


def _too_large(limit: int) -> str:
    return f"the request is too large; send at most {limit / _MB:g} MiB"
