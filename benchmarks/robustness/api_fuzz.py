"""Thousands of valid, odd and broken requests to the demo's page and API, over real connections.

    python benchmarks/robustness/api_fuzz.py [--requests 10000] [--seed 0] [--clients 8] [--no_page]

Makes a toy index, serves it on a free local port as tools/demo.py does, but without rate limits, and prints
how many requests of each route got which status. The exit code is 1 where a request got a status of 500 or
more, or no answer within ten seconds, or where the server no longer answers at the end; such requests are
shown, and the same seed repeats them. "closed": the server closed the connection without an answer, which is
right where the request is not HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.robustness.api_fuzz_requests import IDS, Request, RequestMaker

HANG = 10.0  # seconds
BODY_SECONDS = 1.5  # the server stops waiting for a body well before `HANG`


def ask(port: int, request: Request) -> str:
    """The status of the answer; "closed" where there is none, "hang" where it takes too long."""
    until = time.monotonic() + HANG
    with socket.create_connection(("127.0.0.1", port), timeout=HANG) as connection:
        try:
            # The server may refuse before everything is sent.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request.data)
                if request.shutdown:
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
    """Serve a toy index in `folder`; yields the port."""
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
            from demo.page.blocks import mount_page

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
    """Files to upload: pictures, a clip, and files that are neither."""
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
    """Send the requests; 1 where something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--no_page", action="store_true", help="the API alone")
    arguments = parser.parse_args(argv)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    maker = RequestMaker(arguments.seed, files())
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
        leaked = len(os.listdir("/proc/self/fd")) - descriptors
    show(statuses)
    print(
        f"{len(requests):,} requests in {seconds:.0f} s, {arguments.clients} at once, "
        f"seed {arguments.seed}; {len(wrong)} wrong; at the end {'alive' if alive else 'DEAD'}, "
        f"{leaked} more open files than before"
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
