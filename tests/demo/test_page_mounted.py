"""The page as clients reach it without a browser: only uploads are read, nothing is fetched or called."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs requirements-search.txt")

from starlette.exceptions import HTTPException

from demo.app import create_app
from demo.gradio_access import KnownSessions
from demo.page.blocks import mount_page
from search import Retriever, VideoIndex
from search.indexing import index_videos
from tests.demo.browser import serve
from tests.search.conftest import COLOURS, coloured, write_model

SETTINGS = ("", 12, 1.0, 2)


class Client:
    """Posts events to the page at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address

    def fetch(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read().decode()

    def search(self, *data: Any) -> dict[str, Any]:
        """The result of a search event."""
        config = json.loads(self.fetch("/config"))
        number = next(d["id"] for d in config["dependencies"] if [t[1] for t in d["targets"]] == ["submit"])
        session = secrets.token_hex(5)
        self.fetch("/gradio_api/queue/join", {"fn_index": number, "data": data, "session_hash": session})
        events = self.fetch(f"/gradio_api/queue/data?session_hash={session}")
        messages = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
        return next(m for m in messages if m["msg"] == "process_completed")


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, uploads: Path) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("mounted")
    retriever = Retriever.from_checkpoint(write_model(folder / "model"), device="cpu")
    (folder / "videos").mkdir()
    coloured(folder / "videos" / "red.mp4", COLOURS["red"])
    index_videos(retriever, folder / "index", video_dir=folder / "videos", engine="exact")
    with VideoIndex(folder / "index") as index:
        app = mount_page(create_app(index, retriever), index, retriever)
        with serve(app) as address:
            yield Client(address)


def file_data(path: str, **more: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


@pytest.mark.parametrize("path", ["/nothing", "/gradio_api/nothing", "/static/x.js"])
def test_unknown_routes_answer_as_the_api_does(client: Client, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.fetch(path)
    assert refused.value.code == 404 and set(json.loads(refused.value.read())) == {"error"}


def test_the_event_of_the_page_works(client: Client) -> None:
    done = client.search("a dog", "", None, *SETTINGS)
    assert done["success"] and "red.mp4" in done["output"]["data"][0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_file_of_the_machine_is_read(client: Client, uploads: Path, tmp_path: Path, place: int) -> None:
    secret = coloured(tmp_path / "secret.mp4", COLOURS["blue"])
    data: list[Any] = ["a dog", "", None]
    for path in (str(secret), f"{uploads}/../{secret.name}", f"file://{secret}"):
        data[place] = file_data(path)
        done = client.search(*data, *SETTINGS)
        assert not done["success"] or 'class="error"' in done["output"]["data"][0]
        assert not [found for found in uploads.rglob("*") if found.name == secret.name]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_address_is_fetched(client: Client, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    hosts: list[Any] = []
    look_up = socket.getaddrinfo

    def noted(host: Any, *arguments: Any, **more: Any) -> Any:
        hosts.append(host)
        return look_up(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    data: list[Any] = ["a dog", "", None]
    data[place] = file_data("http://elsewhere.invalid/a.png", url="http://elsewhere.invalid/a.png")
    assert not client.search(*data, *SETTINGS)["success"]
    assert "elsewhere.invalid" not in hosts


@pytest.mark.parametrize(
    "data",
    [(), ("a dog",), ("a dog", "", None, "", 10**6, 1.0, 2), (None,) * 10],
)
def test_wrong_events_end_without_details_of_the_program(client: Client, data: tuple[Any, ...]) -> None:
    done = client.search(*data)
    output = json.dumps(done["output"])
    assert not done["success"] and "Traceback" not in output and "site-packages" not in output


def status(client: Client, path: str, body: Any = None) -> int:
    try:
        client.fetch(path, body)
    except urllib.error.HTTPError as refused:
        return refused.code
    return 200


def test_unknown_sessions_are_answered_without_a_traceback(
    client: Client, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in ("?session_hash=nobody", "/?session_hash=nobody", "?session_hash=", "?session_hash=a%00&x"):
        assert status(client, f"/gradio_api/queue/data{path}") == 404
    assert status(client, "/gradio_api/queue/data") == 404
    assert client.search("a dog", "", None, *SETTINGS)["success"]
    text = caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in text and "nobody" not in text


def test_a_session_that_ends_while_it_is_read_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def gradio_app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("response already started") from HTTPException(404)

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a bug")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    blocks: Any = SimpleNamespace(_queue=SimpleNamespace(pending_messages_per_session={"x": None}))
    scope = {"type": "http", "path": "/gradio_api/queue/data", "query_string": b"session_hash=x"}
    asyncio.run(KnownSessions(gradio_app, blocks)(scope, receive, send))
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(KnownSessions(broken, blocks)(scope, receive, send))


def test_no_path_of_this_machine_is_told(client: Client, uploads: Path) -> None:
    shown = client.fetch("/config") + client.fetch("/") + json.dumps(client.search("a", "", "x", *SETTINGS))
    for path in (str(uploads), str(Path.cwd()), "site-packages", str(Path.home()) + "/"):
        assert path not in shown
    assert status(client, "/gradio_api/upload", {}) == 404


def test_no_function_can_be_called_by_name(client: Client) -> None:
    config = json.loads(client.fetch("/config"))
    assert {d["api_visibility"] for d in config["dependencies"]} <= {"private", "undocumented"}
    for path in ("/gradio_api/run/search", "/gradio_api/call/search", "/gradio_api/api/search"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            client.fetch(path, {"data": ["a dog", "", None, *SETTINGS]})
        assert refused.value.code in (404, 405)


def test_the_page_names_no_other_host(client: Client) -> None:
    page = client.fetch("/")
    loaded = [part.split('"')[0] for mark in ('src="', "import(") for part in page.split(mark)[1:]]
    assert loaded and not [address for address in loaded if "//" in address]
    assert (
        "fonts.googleapis" not in page and json.loads(client.fetch("/config"))["analytics_enabled"] is False
    )
