"""uvicorn's HTTP protocol with a time limit for the headers of a request and limits of open connections.

uvicorn has no such settings: its `timeout_keep_alive` ends with the first byte of a request, and its
`limit_concurrency` counts the connections of all clients together, so that one client can use them up.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from demo.limits import Limits
from demo.throttling import client_key


class OpenConnections:
    """The open connections of all clients, at most `total`, and `per_client` of one client.

    A new connection above a limit replaces the oldest one without a request in progress: of the same client,
    or, if all together are too many, of the client that has the most. So half-sent requests keep nobody out.
    """

    def __init__(self, *, total: int, per_client: int) -> None:
        self._total = total
        self._per_client = per_client
        self._clients: dict[str, dict[LimitedProtocol, None]] = {}  # in the order of arrival

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def add(self, connection: LimitedProtocol, client: str) -> bool:
        """Count a new connection. False if it must be refused, because all others are in use."""
        own = self._clients.get(client, {})
        if len(own) >= self._per_client:
            replaced = self._drop_oldest(client)
        elif len(self) >= self._total:
            replaced = self._drop_oldest(max(self._clients, key=lambda name: len(self._clients[name])))
        else:
            replaced = True
        if replaced:
            self._clients.setdefault(client, {})[connection] = None
        return replaced

    def remove(self, connection: LimitedProtocol, client: str) -> None:
        """Forget a connection; nothing happens if it is not counted."""
        own = self._clients.get(client, {})
        own.pop(connection, None)
        if not own:
            self._clients.pop(client, None)

    def _drop_oldest(self, client: str) -> bool:
        idle = next((other for other in self._clients[client] if other.is_idle), None)
        if idle is None:
            return False
        self.remove(idle, client)
        idle.transport.close()
        return True


class LimitedProtocol(H11Protocol):
    """One connection. Subclasses made by `limited_protocol` hold the limits of a server."""

    open_connections: OpenConnections
    header_seconds: float

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._client_key = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._started = False  # a part of the next request has arrived

    @property
    def is_idle(self) -> bool:
        """Whether no complete header has arrived since the last response."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._client_key = client_key(self.client[0]) if self.client else ""
        if self.open_connections.add(self, self._client_key):
            self._start_deadline()
        else:
            self._refuse(503, "Service Unavailable", "too many open connections; close some")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self.open_connections.remove(self, self._client_key)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._started = True
        if self._is_waiting():
            self._start_deadline()
        super().data_received(data)
        if not self._is_waiting():
            self._stop_deadline()
            self._started = False

    def _is_waiting(self) -> bool:
        """Whether the rest of a header is missing, or of a body that nobody reads any more."""
        their, our = self.conn.their_state, self.conn.our_state
        return their is h11.IDLE or (their is h11.SEND_BODY and our is h11.DONE)

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._end)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        if self._started and self.conn.our_state is h11.IDLE:
            self._refuse(408, "Request Timeout", "the header of the request took too long to arrive")
        else:
            self.transport.close()

    def _refuse(self, status: int, reason: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def limited_protocol(limits: Limits) -> type[LimitedProtocol]:
    """The `http` setting of a uvicorn server with these limits."""

    class Protocol(LimitedProtocol):
        open_connections = OpenConnections(total=limits.connections, per_client=limits.client_connections)
        header_seconds = limits.header_seconds

    return Protocol
