"""Random requests for `api_fuzz.py`: valid ones, odd ones, and bytes that are not HTTP."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

IDS = ("red.mp4", "green.mp4", "blue.mp4", "more/grey 100% #1? grüße 灰色.mp4", "more/gone.mp4")
ODD = (
    *("", " ", "a", "0", "-1", "1.5", "nan", "inf", "-inf", "1e400", "9" * 400, "true", "null", "[]", "{}"),
    *(
        "\0",
        "\r\n",
        "\x1b[31m",
        "\u202e",
        "é",
        "一只狗",
        "🐕‍🦺",
        "\ud7ff\uffff",
        "\x7f",
        "a" * 1001,
        "a" * 20_000,
    ),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "..\\..\\win.ini",
        "%2e%2e%2f",
        "file:///etc/passwd",
        "http://127.0.0.1/",
    ),
    *("' OR 1=1 --", "<script>alert(1)</script>", "${7*7}", "%", "%zz", "%00", "a&b=c", ";", "?", "#", "NaN"),
)
METHODS = ("POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW")
RANGES = (
    *("bytes=0-", "bytes=0-99", "bytes=-1", "bytes=-0", "bytes=5-3", "bytes=99999999-", "bytes=0-0,5-6"),
    *("bytes=", "bytes=-", "items=1-2", "bytes=a-b", "bytes=" + "9" * 300 + "-", "\xff", "bytes=0-9" * 50),
)
LIKELY = {"top": "3", "frame": "2", "frame_weight": "0.5", "top_frames": "2"}
GRADIO = (
    *("/", "/config", "/theme.css", "/gradio_api/queue/data", "/gradio_api/queue/join", "/gradio_api/upload"),
    *("/gradio_api/file=README.md", "/gradio_api/file=/etc/passwd", "/file=../README.md", "/gradio_api/info"),
    *("/gradio_api/run/search", "/gradio_api/call/search", "/gradio_api/proxy=http://127.0.0.1", "/nothing"),
    *("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/startup-events", "/gradio_api/upload_progress"),
    *("/static/../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/svelte/x", "/login", "/monitoring"),
    *(
        "/gradio_api/app_id",
        "/gradio_api/component_server",
        "/gradio_api/queue/status",
        "/favicon.ico",
        "/robots.txt",
    ),
)


@dataclass(frozen=True)
class Request:
    """Bytes to send, and their route; `shutdown`: tell the server that nothing more will come."""

    route: str
    data: bytes
    shutdown: bool = False


class RequestMaker:
    """Makes random requests. `files` are pictures and clips by name."""

    def __init__(self, seed: int, files: dict[str, bytes]) -> None:
        self._random = random.Random(seed)
        self._files = files

    def request(self) -> Request:
        """The next request."""
        draw = self._random.random()
        if draw < 0.04:
            return self._not_http()
        if draw < 0.16:
            return self._head("gradio", self._pick(GRADIO) + self._query(("session_hash", "upload_id")))
        if draw < 0.36:
            return self._form()
        if draw < 0.66:
            names = ("q", "not", "top", "frame_weight", "top_frames")
            query = "?q=a%20dog&" if self._random.random() < 0.6 else ""
            query = query + self._query(names).lstrip("?" if query else "")
            return self._head("search", "/search" + query)
        route = self._pick(("video", "video", "videos", "similar", "thumbnail", "health", "openapi.json"))
        path = f"/{route}" if route in ("health", "openapi.json") else f"/{route}/{self._id()}"
        return self._head(route, path + self._query(("top", "frame", "frame_weight", "top_frames"), most=1))

    def _pick(self, items: Sequence[str]) -> str:
        return self._random.choice(items)

    def _id(self) -> str:
        video_id = self._pick(IDS if self._random.random() < 0.6 else ODD)
        form = self._random.random()
        if form < 0.5:
            return quote(video_id, safe="/", errors="replace")
        if form < 0.75:
            return quote(video_id, safe="", errors="replace")
        return "".join(f"%{byte:02x}" for byte in self._damaged(video_id.encode("utf-8", "replace")))

    def _query(self, names: Sequence[str], *, most: int = 3) -> str:
        pairs = []
        for _ in range(self._random.randint(0, most)):
            name = self._pick(names)
            value = LIKELY.get(name, "a red dog") if self._random.random() < 0.75 else self._pick(ODD)
            shown = value if self._random.random() < 0.05 else quote(value, errors="replace")
            pairs.append(f"{name}={shown}")
        return "?" + "&".join(pairs) if pairs else ""

    def _head(self, route: str, target: str) -> Request:
        method = (
            "GET" if self._random.random() < (0.6 if route == "gradio" else 0.85) else self._pick(METHODS)
        )
        body = b""
        headers: list[tuple[str, str]] = []
        if self._random.random() < (0.6 if route == "video" else 0.1):
            headers.append(("Range", self._pick(RANGES)))
        if self._random.random() < 0.1:
            headers.append(
                (self._pick(("If-Range", "If-None-Match", "Accept", "Cookie", "Origin")), self._pick(ODD))
            )
        if method in ("POST", "PUT", "PATCH") or self._random.random() < 0.05:
            body = self._pick(
                ('{"data": []}', "[1", "q=a", '{"fn_index": 0, "data": null}', "x" * 5000)
            ).encode()
            kinds = (
                "application/json",
                "application/x-www-form-urlencoded",
                "text/plain",
                "multipart/form-data",
            )
            headers.append(("Content-Type", self._pick(kinds)))
        return self._finish(route, method, target, headers, body)

    def _form(self) -> Request:
        boundary = self._pick(("x", "x", "x", "----WebKitFormBoundary7MA4YWxk", "a b", "é"))
        parts = []
        if self._random.random() < 0.5:
            name = self._pick(("image", "video"))
            data = self._files[self._pick(("png", "jpg", "webp") if name == "image" else ("mp4",))]
            parts.append((f'name="{name}"; filename="a"', data))
        for _ in range(self._random.choice((0, 0, 1, 2, 4))):
            if self._random.random() < 0.6:
                name = self._pick(("image", "video", "image", "video", "q"))
                data = self._files[self._pick(tuple(self._files))]
                data = self._damaged(data) if self._random.random() < 0.5 else data
                parts.append((f'name="{name}"; filename="{self._pick(("a.png", "b.mp4", *ODD[:9]))}"', data))
            else:
                name = self._pick(("q", "not", "top", "frame_weight", "top_frames", "colour"))
                value = LIKELY.get(name, "a dog") if self._random.random() < 0.7 else self._pick(ODD)
                parts.append((f'name="{name}"', value.encode("utf-8", "replace")))
        mark = boundary.encode("latin-1")
        body = b"".join(
            b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
            % (mark, head.encode("utf-8", "replace"), data)
            for head, data in parts
        )
        body += b"--%s--\r\n" % mark
        if self._random.random() < 0.15:
            body = self._damaged(body)
        kind = f"multipart/form-data; boundary={boundary}"
        if self._random.random() < 0.05:
            kind = self._pick(
                ("multipart/form-data", "multipart/form-data; boundary=", "text/plain", "", "\xff")
            )
        return self._finish("search form", "POST", "/search", [("Content-Type", kind)], body)

    def _finish(
        self, route: str, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> Request:
        host = (
            "127.0.0.1" if self._random.random() < 0.98 else self._pick(("evil.example", "", "[", *ODD[:12]))
        )
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        shutdown = False
        length = self._random.random()
        if length < 0.03:  # too large a length: the body never ends
            lines.append(f"Content-Length: {len(body) + self._random.randint(1, 10**6)}")
            shutdown = self._random.random() < 0.7
        elif length < 0.05:
            lines.append(
                f"Content-Length: {self._pick(('2147483648', '9' * 100, '-1', 'a', '0x10', '1, 2', ''))}"
            )
        elif length < 0.12:
            lines.append("Transfer-Encoding: chunked")
            body, shutdown = self._chunked(body)
        elif body:
            lines.append(f"Content-Length: {len(body)}")
        text = "\r\n".join(lines) + "\r\n\r\n"
        return Request(route, text.encode("utf-8", "replace") + body, shutdown)

    def _chunked(self, body: bytes) -> tuple[bytes, bool]:
        """`body` in chunks, and whether the last one is broken."""
        size = self._random.choice((7, 1000, 100_000))
        pieces = [body[place : place + size] for place in range(0, len(body), size)][:200]
        data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        broken = self._random.random() < 0.2
        return data + (b"zz\r\n" if broken else b"0\r\n\r\n"), broken

    def _not_http(self) -> Request:
        if self._random.random() < 0.5:
            return Request("no HTTP", self._random.randbytes(self._random.randint(0, 3000)), shutdown=True)
        data = self._damaged(self._head("no HTTP", "/search?q=a").data)
        return Request("no HTTP", data, shutdown=True)

    def _damaged(self, data: bytes) -> bytes:
        """`data` with some bytes changed, cut off, or repeated."""
        damaged = bytearray(data)
        for _ in range(self._random.randint(1, 8)):
            if not damaged:
                break
            place = self._random.randrange(len(damaged))
            kind = self._random.random()
            if kind < 0.6:
                damaged[place] = self._random.randrange(256)
            elif kind < 0.75:
                del damaged[place:]
            else:
                damaged[place:place] = damaged[place : place + 50]
        return bytes(damaged)
