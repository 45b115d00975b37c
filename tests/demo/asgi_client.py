"""A client that calls an ASGI app directly, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Client:
    """Sends one request to an app, piece by piece, and keeps what comes back."""

    def __init__(self, app: Any, path: str = "/search", *, method: str = "POST", query: bytes = b"") -> None:
        self._app = app
        self._path = path
        self._method = method
        self._query = query
        self.pieces = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def send(
        self,
        headers: list[tuple[bytes, bytes]],
        body: Callable[[int], bytes | None],
        *,
        address: str = "1.2.3.4",
    ) -> Client:
        """`body(n)` is the nth piece; None: the client stops sending without ending the body."""
        scope = {
            "type": "http",
            "method": self._method,
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": self._query,
            "headers": [(b"host", b"localhost:7860"), *headers],
            "client": (address, 1),
            "server": ("127.0.0.1", 7860),
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
        }

        async def receive() -> dict[str, Any]:
            data = body(self.pieces)
            self.pieces += 1
            if data is None:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": data, "more_body": bool(data)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert not self.status
                self.status, self.headers = message["status"], dict(message["headers"])
            else:
                self.body += message.get("body", b"")

        await self._app(scope, receive, send)
        return self
