"""A real HTTP server on loopback that can break in the ways that servers and networks do."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What is served, and how. `ends_after`: a connection dies after so many bytes of a file; `stalls_after`:
    it says nothing more. `refusals`: answers of status 503 that come first."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    ends_after: int | None = None
    stalls_after: int | None = None
    refusals: int = 0
    gets: list[tuple[str, str]] = field(default_factory=list)  # (path, range)
    address: str = ""
    closing: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            server.gets.append((self.path, self.headers.get("Range", "")))
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            name = self.path.lstrip("/").partition("?")[0]
            if server.refusals > 0:
                server.refusals -= 1
                return self.send_error(503)
            if name not in server.files:
                return self.send_error(404)
            data, asked = (
                server.files[name],
                re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")),
            )
            total = len(data)
            if server.ranges and asked:
                first, last = int(asked[1]), min(int(asked[2]), total - 1)
                data = data[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self._send(data)

        def _send(self, data: bytes) -> None:
            limits = [limit for limit in (server.ends_after, server.stalls_after) if limit is not None]
            with contextlib.suppress(OSError):
                self.wfile.write(data[: min(limits, default=len(data))])
                self.wfile.flush()
            if min(limits, default=len(data)) >= len(data):
                return
            if server.stalls_after is not None:
                server.closing.wait(20)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    try:
        yield server
    finally:
        server.closing.set()
        httpd.shutdown()
        httpd.server_close()
