"""An ASGI middleware that every request passes, for the API and for the page alike.

It checks the host's name, the site that a request comes from, request rates, size and duration of bodies and
blocked routes, adds security headers to every response, and turns unexpected errors into one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.errors import error_response
from demo.gradio_access import is_blocked_route
from demo.limits import Limits
from demo.request_sites import is_cross_site
from demo.throttling import TokenBuckets, UploadSlots, client_key, is_loopback

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
_API_ROUTE = re.compile(r"/(search|similar|videos?|thumbnail|health|uploads|openapi\.json)(/|$)")
# Routes that run the model or fill the disk.
_COSTLY_ROUTE = re.compile(r"/(?:search|uploads)(/|$)|/similar/|(?:/gradio_api)?/queue/join(/|$)")
_FILE_ROUTE = re.compile(r"/(?:search|uploads)/?$")  # routes that take files


def is_costly(path: str) -> bool:
    """Whether requests for `path` count as searches."""
    return _COSTLY_ROUTE.match(path) is not None


class AccessMiddleware:
    """The middleware. It passes HTTP only; nothing here needs a websocket."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._hosts = {host.lower() for host in limits.hosts}
        self._search_rates = TokenBuckets(limits.search_rate, clients=limits.clients)
        self._other_rates = TokenBuckets(limits.other_rate, clients=limits.clients)
        self._upload_slots = UploadSlots(total=limits.uploads, per_client=limits.client_uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._handle(scope, receive, _with_headers(send, scope["path"]))

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal:
            status, message, headers = refusal
            await error_response(status, message, headers)(scope, receive, send)
            return
        client = _client(scope)
        if not _is_large(Headers(scope=scope)):
            await self._forward(scope, receive, send)
        elif self._upload_slots.acquire(client):
            try:
                await self._forward(scope, receive, send)
            finally:
                self._upload_slots.release(client)
        else:
            headers = {"Retry-After": "5", "Connection": "close"}
            await error_response(503, "too many uploads at once; try again in a moment", headers)(
                scope, receive, send
            )

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._body_limit(scope)
        body = _LimitedBody(receive, limit=limit, seconds=self._limits.body_seconds)
        response = _Response(send, body)
        try:
            await self._app(scope, body.receive, response.send)
        except ClientDisconnect:
            return
        except Exception:
            if response.started:
                raise
            if not body.refusal:
                logger.exception("a request failed")
                message = "internal error; the log of the server has the details"
                await error_response(500, message)(scope, receive, send)
                return
        if body.refusal and not response.started:
            status, message = body.refusal
            await error_response(status, message, {"Connection": "close"})(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """(status, message, headers) if the request is refused before its body is read."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if "*" not in self._hosts and _host_name(host) not in self._hosts:
            return 400, f"host {host[:80]!r}: this server does not answer to that name", {}
        if is_cross_site(scope["method"], headers, self._hosts):
            return 403, "requests from pages of other sites are refused", {"Connection": "close"}
        rates = self._search_rates if is_costly(path) else self._other_rates
        client = _client(scope)
        wait = 0.0 if is_loopback(client) else rates.take(client)
        if wait:
            return 429, "too many requests; wait a moment", {"Retry-After": str(math.ceil(wait))}
        if not _API_ROUTE.match(path) and is_blocked_route(path):
            return 404, "not found", {}
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return 400, "Content-Length: give the number of bytes", {"Connection": "close"}
        # The number of digits comes first: Python refuses to parse integers of thousands of digits.
        limit = self._body_limit(scope)
        if len(length.lstrip("0")) > 18 or int(length) > limit:
            return 413, _too_large(limit), {"Connection": "close"}
        return None

    def _body_limit(self, scope: Scope) -> int:
        """Bytes that the body of a request may have; only the routes that take files allow large ones."""
        limits = self._limits
        return limits.body_bytes if _FILE_ROUTE.match(scope["path"]) else limits.other_body_bytes


class _LimitedBody:
    """The body of a request, whose bytes and seconds are counted while it arrives."""

    def __init__(self, receive: Receive, *, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._deadline = time.monotonic() + seconds
        self._bytes = 0
        self._complete = False
        self.refusal: tuple[int, str] | None = None  # status and message

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self.refusal:
            raise _BodyRefused
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError):
            self.refusal = 408, "the request took too long to arrive"
            raise _BodyRefused from None
        self._bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._bytes > self._limit:
            self.refusal = 413, _too_large(self._limit)
            raise _BodyRefused
        return message


class _BodyRefused(Exception):
    """Stops the reading of a body. The response that the route then makes is not sent."""


class _Response:
    """Forwards a response, except one that starts after the body was refused."""

    def __init__(self, send: Send, body: _LimitedBody) -> None:
        self._send = send
        self._body = body
        self.started = False

    async def send(self, message: Message) -> None:
        if self._body.refusal and not self.started:
            return
        self.started = True
        await self._send(message)


def _with_headers(send: Send, path: str) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if _API_ROUTE.match(path):
                headers.setdefault("Content-Security-Policy", _POLICY)
        await send(message)

    return send_with_headers


def _client(scope: Scope) -> str:
    host, port = scope.get("client") or ("", 0)
    # Port 0: uvicorn took the address from X-Forwarded-For, which anybody can write. All such requests count
    # as one client, or every request could claim to be a new one.
    return client_key(host) if port else "forwarded"


def _is_large(headers: Headers) -> bool:
    """Whether a body is large, or its length is not known beforehand."""
    length = headers.get("content-length")
    return "transfer-encoding" in headers if length is None else int(length) > _LARGE


def _host_name(host: str) -> str:
    """The Host header in lower case without its port."""
    name, colon, port = host.rpartition(":")
    with contextlib.suppress(ValueError):
        if colon and (not port or int(port) >= 0):  # no number: the end of an IPv6 address in brackets
            host = name
    return host.lower()


def _too_large(limit: int) -> str:
    return f"the request is too large; send at most {limit / _MB:g} MiB"
