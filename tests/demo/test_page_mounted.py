"""The page as clients reach it without a browser: only uploads are read, nothing is fetched or called."""

from __future__ import annotations

import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs requirements-search.txt")

from demo.app import create_app
from demo.page import mount_page
from search import Retriever, VideoIndex
from search.indexing import index_videos
from tests.demo.browser import serve
from tests.search.conftest import COLOURS, coloured, write_model

SETTINGS = (12, 1.0, 2)


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
        (number,) = (d["id"] for d in config["dependencies"] if [t[1] for t in d["targets"]] == ["upload"])
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
    [(), ("a dog",), ("a dog", "", None, 10**6, 1.0, 2), ("a dog", "", "text", *SETTINGS), (None,) * 9],
)
def test_wrong_events_end_without_details_of_the_program(client: Client, data: tuple[Any, ...]) -> None:
    done = client.search(*data)
    output = json.dumps(done["output"])
    assert not done["success"] and "Traceback" not in output and "site-packages" not in output


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
