"""Thousands of valid, odd and broken requests to the demo's page and API, over real connections.

    python benchmarks/api_fuzz.py [--requests 10000] [--seed 0] [--clients 8] [--no_page]

Makes a toy index, serves it on a free port of this computer as tools/demo.py does, without limits of rates,
and prints how many requests of each route were answered with which status. Exit code 1 where one was answered
with a status of 500 or more, or not within ten seconds, or where the server does not answer any more at the
end; the requests are then shown, and a seed makes the same ones again. "closed": the server ended the
connection without an answer, which is right where the request was no HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import logging
import os
import random
import socket
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

HANG = 10.0  # seconds
BODY_SECONDS = 1.5  # so that bodies that never come are given up within `HANG`
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
    """Bytes to send and the route that they mean; `halve`: nothing more will come, and the server is told."""

    route: str
    data: bytes
    halve: bool = False


class Maker:
    """Draws requests. `files` are pictures and clips by name."""

    def __init__(self, seed: int, files: dict[str, bytes]) -> None:
        self._random = random.Random(seed)
        self._files = files

    def request(self) -> Request:
        """The next one."""
        draw = self._random.random()
        if draw < 0.04:
            return self._rubbish()
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
        return "".join(f"%{byte:02x}" for byte in self._spoiled(video_id.encode("utf-8", "replace")))

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
                data = self._spoiled(data) if self._random.random() < 0.5 else data
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
            body = self._spoiled(body)
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
        halve = False
        length = self._random.random()
        if length < 0.03:  # a length that is too large, so that the body never ends
            lines.append(f"Content-Length: {len(body) + self._random.randint(1, 10**6)}")
            halve = self._random.random() < 0.7
        elif length < 0.05:
            lines.append(
                f"Content-Length: {self._pick(('2147483648', '9' * 100, '-1', 'a', '0x10', '1, 2', ''))}"
            )
        elif length < 0.12:
            lines.append("Transfer-Encoding: chunked")
            body, halve = self._chunked(body)
        elif body:
            lines.append(f"Content-Length: {len(body)}")
        text = "\r\n".join(lines) + "\r\n\r\n"
        return Request(route, text.encode("utf-8", "replace") + body, halve)

    def _chunked(self, body: bytes) -> tuple[bytes, bool]:
        """`body` in chunks, and whether they are broken at the end."""
        size = self._random.choice((7, 1000, 100_000))
        pieces = [body[place : place + size] for place in range(0, len(body), size)][:200]
        data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        broken = self._random.random() < 0.2
        return data + (b"zz\r\n" if broken else b"0\r\n\r\n"), broken

    def _rubbish(self) -> Request:
        if self._random.random() < 0.5:
            return Request("no HTTP", self._random.randbytes(self._random.randint(0, 3000)), halve=True)
        data = self._spoiled(self._head("no HTTP", "/search?q=a").data)
        return Request("no HTTP", data, halve=True)

    def _spoiled(self, data: bytes) -> bytes:
        """`data` with some bytes changed, cut off, or in twice."""
        spoiled = bytearray(data)
        for _ in range(self._random.randint(1, 8)):
            if not spoiled:
                break
            place = self._random.randrange(len(spoiled))
            kind = self._random.random()
            if kind < 0.6:
                spoiled[place] = self._random.randrange(256)
            elif kind < 0.75:
                del spoiled[place:]
            else:
                spoiled[place:place] = spoiled[place : place + 50]
        return bytes(spoiled)


def ask(port: int, request: Request) -> str:
    """The status that a request gets; "closed" where there is none, "hang" where it takes too long."""
    until = time.monotonic() + HANG
    with socket.create_connection(("127.0.0.1", port), timeout=HANG) as connection:
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
                connection.sendall(request.data)
                if request.halve:
                    connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(
                connection, method=request.data.split(b" ", 1)[0].decode("latin-1")
            )
            answer.begin()
            status = str(answer.status)
            if "event-stream" in (answer.getheader("content-type") or ""):
                return status  # never ends
            while time.monotonic() < until:
                if not answer.read(1 << 20):
                    return status
        except TimeoutError:
            return "hang"
        except (http.client.HTTPException, OSError):
            return "closed"
    return "hang"


@contextlib.contextmanager
def serve(folder: Path, *, page: bool) -> Iterator[int]:
    """The port of a server of a toy index in `folder`."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    import uvicorn

    from demo.app import create_app
    from demo.limits import Limits, Rate
    from search import Retriever, VideoIndex, index_videos
    from tests.search.conftest import COLOURS, coloured, write_model

    checkpoint = write_model(folder / "model")
    (folder / "videos" / "more").mkdir(parents=True)
    for video_id, colour in zip(IDS, [*COLOURS.values(), (9, 9, 9)], strict=True):
        coloured(folder / "videos" / video_id, colour)
    retriever = Retriever.from_checkpoint(checkpoint, device="cpu")
    index_videos(retriever, folder / "index", video_dir=folder / "videos", workers=1)
    (folder / "videos" / IDS[-1]).unlink()
    free = Rate(1e9, 10**9)
    limits = Limits(search_rate=free, other_rate=free, body_seconds=BODY_SECONDS, waiting=10**6)
    with VideoIndex(folder / "index") as index, socket.create_server(("127.0.0.1", 0)) as listening:
        app = create_app(index, retriever, limits)
        if page:
            from demo.page import mount_page

            mount_page(app, index, retriever)
        config = uvicorn.Config(app, log_level="critical", access_log=False, proxy_headers=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        port = listening.getsockname()[1]
        try:
            while not server.started:
                time.sleep(0.05)
            yield port
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def files() -> dict[str, bytes]:
    """What is uploaded: a picture, a clip, and what is neither."""
    import cv2
    import numpy as np

    from tests.search.conftest import COLOURS, coloured

    with tempfile.TemporaryDirectory() as folder:
        clip = coloured(Path(folder, "a.mp4"), COLOURS["red"], frames=10).read_bytes()
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    pictures = {kind: cv2.imencode(f".{kind}", picture)[1].tobytes() for kind in ("png", "jpg", "webp")}
    pictures["line"] = cv2.imencode(".png", np.zeros((1, 500_000, 3), np.uint8))[1].tobytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b" * 10_000)
    return {
        **pictures,
        "mp4": clip,
        "zip": archive.getvalue(),
        "empty": b"",
        "text": b"#EXTM3U\nhttp://127.0.0.1/\n",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 where something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--no_page", action="store_true", help="the API alone")
    arguments = parser.parse_args(argv)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    maker = Maker(arguments.seed, files())
    requests = [maker.request() for _ in range(arguments.requests)]
    statuses: Counter[tuple[str, str]] = Counter()
    wrong: list[tuple[str, Request]] = []
    with (
        tempfile.TemporaryDirectory(prefix="api-fuzz-") as folder,
        serve(Path(folder), page=not arguments.no_page) as port,
        ThreadPoolExecutor(arguments.clients) as clients,
    ):
        descriptors, started = len(os.listdir("/proc/self/fd")), time.monotonic()
        for request, status in zip(requests, clients.map(lambda r: ask(port, r), requests), strict=True):
            statuses[request.route, status] += 1
            if status == "hang" or status.startswith("5"):
                wrong.append((status, request))
        seconds = time.monotonic() - started
        health = Request("health", b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        alive = ask(port, health) == "200"
        time.sleep(BODY_SECONDS)
        left = len(os.listdir("/proc/self/fd")) - descriptors
    show(statuses)
    print(
        f"{len(requests):,} requests in {seconds:.0f} s, {arguments.clients} at once, "
        f"seed {arguments.seed}; {len(wrong)} wrong; at the end {'alive' if alive else 'DEAD'}, "
        f"{left} more open files than before"
    )
    for status, request in wrong[:10]:
        print(f"{status}: {request.data[:400]!r}")
    return 1 if wrong or not alive else 0


def show(statuses: Counter[tuple[str, str]]) -> None:
    """A table of routes and statuses."""
    columns = sorted({status for _, status in statuses})
    print(f"| {'route':<12} |" + "".join(f" {status:>6} |" for status in columns))
    print("| --- |" + " ---: |" * len(columns))
    for route in sorted({route for route, _ in statuses}):
        print(f"| {route:<12} |" + "".join(f" {statuses[route, status] or '':>6} |" for status in columns))
    total = [sum(count for (_, s), count in statuses.items() if s == status) for status in columns]
    print(f"| {'all':<12} |" + "".join(f" {count:>6} |" for count in total))


if __name__ == "__main__":
    sys.exit(main())
