"""Serve a web page and a JSON API that search your own videos, in one process with one model.

    python tools/demo.py INDEX [--port 7860]      an index made by tools/search.py index
    python tools/demo.py --toy [--language chinese]   toy videos, and a toy model trained for some minutes

Only this computer can open the page unless --host says otherwise. docs/SEARCH.md says more.
Exit code: 2 for a wrong flag or file, with one line that says so; 128 + signal (Ctrl-C: 130) at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.errors import EXIT_INTERRUPTED, UserError, run_program
from demo.limits import LOOPBACK_HOSTS, Limits, Rate
from demo.toy_index import FOLDER, LANGUAGES, ToyDemo, prepare
from search.index_format import ENGINES, missing_package, read_settings
from search.models.saved import may_be_checkpoint

if TYPE_CHECKING:
    from fastapi import FastAPI

PORT = 7860
_PACKAGES = {
    "gradio": "gradio",
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
}
_SHUTDOWN_SECONDS = 2  # for open connections when the program ends
_MB = 1 << 20


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = ArgumentParser(
        prog="demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("index", type=Path, nargs="?", metavar="INDEX", help="folder that tools/search.py index made")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this computer only)")
    add("--port", type=_port, default=PORT, help=f"default {PORT}; 0: any free one")
    add(
        "--allow_host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this server",
    )
    add("--init_model", type=Path, help="path of the index's checkpoint, if it was moved")
    add("--model", metavar="FOLDER", help="folder of the index's published model, if it was moved")
    add("--engine", choices=ENGINES, help="engine that proposes candidates (default: that of the index)")
    add("--url", help="address of the Qdrant server, as http://127.0.0.1:6333")
    _add_limits(parser)
    toy = parser.add_argument_group("toy demo")
    toy.add_argument("--toy", action="store_true", help="make toy videos, a toy model and their index first")
    toy.add_argument("--language", choices=LANGUAGES, help="language of the toy model (default english)")
    toy.add_argument("--out", type=Path, help="folder of the toy demo (default runs/toy_demo)")
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    usual = Limits()
    add = parser.add_argument_group("limits").add_argument

    def limit(name: str, kind: Callable[[str], float], value: float, help: str) -> None:
        add(f"--{name}", type=kind, default=value, metavar="N", help=f"{help} (default {value:g})")

    limit(
        "search_rate",
        _number,
        usual.search_rate.per_second,
        "searches per second of one client; 0: any number",
    )
    limit("search_burst", _positive, usual.search_rate.burst, "searches that it may send at once")
    limit(
        "queue_seconds", _number, usual.queue_seconds, "seconds that a search may wait; further ones get 503"
    )
    limit("connections", _positive, usual.connections, "open connections")
    limit("client_connections", _positive, usual.client_connections, "open connections of one client")
    limit(
        "header_seconds", _number, usual.header_seconds, "seconds until a request's header must be complete"
    )
    limit("upload_mb", _positive, usual.upload_bytes // _MB, "MiB of one uploaded file")
    limit(
        "upload_folder_mb",
        _positive,
        usual.upload_folder_bytes // _MB,
        "MiB of all files that the page keeps",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    return run_program("demo.py", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        _check(arguments)
        _need_libraries()
        with _listen(arguments.host, arguments.port) as listening:
            _serve(arguments, listening)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # Ctrl-C is how the program ends
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for flags that do not fit together and files that do not exist."""
    if arguments.toy and arguments.index:
        raise UserError(f"--toy makes its own index; leave {arguments.index} out, or --toy")
    if not arguments.toy and not arguments.index:
        raise UserError("which index? Name one that tools/search.py index made, or give --toy")
    if not arguments.toy and (arguments.out or arguments.language):
        raise UserError("--out and --language belong to --toy; the index knows its own model")
    if arguments.upload_mb > arguments.upload_folder_mb:
        raise UserError(f"--upload_mb {arguments.upload_mb}: is more than --upload_folder_mb")
    if arguments.index:
        read_settings(arguments.index)
    if arguments.init_model and not may_be_checkpoint(arguments.init_model):
        raise UserError(f"--init_model {arguments.init_model}: no such file")


def _need_libraries() -> None:
    """Raise `UserError` if a library is not installed."""
    for name, package in _PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            raise missing_package(package)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `UserError` if there is no such address or the port is taken."""
    try:
        if not host:
            raise OSError("empty")
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise UserError(f"--host {host}: no such address; 127.0.0.1 is this computer") from None
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UserError(
            f"--port {port}: cannot listen there on {host} ({error.strerror}); --port 0 takes a free one"
        ) from None
    return listening


def _serve(arguments: argparse.Namespace, listening: socket.socket) -> None:
    """Serve until a signal comes."""
    toy = _toy(arguments) if arguments.toy else None
    folder = toy.index if toy else arguments.index
    from search import Retriever, VideoIndex

    with (
        VideoIndex(folder, engine=arguments.engine, url=arguments.url) as index,
        tempfile.TemporaryDirectory(prefix="hmmc-demo-") as uploads,
    ):
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads}  # before the import
        logging.getLogger("httpx").setLevel(logging.WARNING)
        _ = index.engine  # opened now, so that its errors are reported before the weights are loaded
        from demo.app import create_app
        from demo.page.blocks import PageText, mount_page

        retriever = Retriever.for_index(index, checkpoint=arguments.init_model, model=arguments.model)
        host, port = listening.getsockname()[:2]
        limits = _limits(arguments, host)
        app = create_app(index, retriever, limits)
        text = PageText(toy.examples, toy.remark) if toy else PageText()
        mount_page(app, index, retriever, text)
        _serve_app(
            app,
            limits,
            listening,
            lambda: _print_address(arguments.host, host, port, videos=len(index)),
        )


def _limits(arguments: argparse.Namespace, host: str) -> Limits:
    upload_bytes = arguments.upload_mb * _MB
    return Limits(
        hosts=_host_names(arguments, host),
        search_rate=Rate(arguments.search_rate, arguments.search_burst),
        queue_seconds=arguments.queue_seconds,
        connections=arguments.connections,
        client_connections=arguments.client_connections,
        header_seconds=arguments.header_seconds,
        upload_bytes=upload_bytes,
        body_bytes=upload_bytes + _MB,
        upload_folder_bytes=arguments.upload_folder_mb * _MB,
    )


def _serve_app(app: FastAPI, limits: Limits, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve `app`; `ready` is called when it accepts requests."""
    import uvicorn

    from demo.connections import limited_protocol

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # behind a proxy, the proxy has to limit rates
        http=limited_protocol(limits),
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    Server(config).run(sockets=[listening])


def _toy(arguments: argparse.Namespace) -> ToyDemo:
    toy = prepare(arguments.out or FOLDER, arguments.language or "english", say=_say)
    _say(f"toy model, on the captions of these videos, which it never saw: {toy.figures}")
    return toy


def _host_names(arguments: argparse.Namespace, host: str) -> tuple[str, ...]:
    """The names that the Host header of a request may have."""
    names = [*LOOPBACK_HOSTS, *arguments.allow_host]
    if not _is_loopback(host):
        names.append(arguments.host)
    if host in ("0.0.0.0", "::"):  # all addresses of this machine
        name = socket.gethostname()
        names.append(name)
        with contextlib.suppress(OSError):
            names += [str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    return tuple(dict.fromkeys(_bracketed(name) for name in names))


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _bracketed(name: str) -> str:
    """A host name in lower case, an IPv6 address in brackets."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name.lower()


def _print_address(named: str, host: str, port: int, *, videos: int) -> None:
    if not _is_loopback(host):
        _say(f"warning: --host {named}: everybody who reaches port {port} can search and watch the videos")
    shown = _bracketed({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host))
    _say(f"{videos:,} video{'s' if videos != 1 else ''}; open http://{shown}:{port}/ (Ctrl-C ends)")


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535, not {text}")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0, not {text}")
    return number


def _positive(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) < 10**9):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text}")
    return int(text)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
