"""A stand-in for the hub: what huggingface_hub asks of it to make a repository, to upload and to download."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

PIECE = 1 << 14


class Hub:
    """Repositories by name, each with its files. `cut_after`: bytes after which downloads break off."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.cut_after: int | None = None
        self.asked: list[str] = []
        self.started_at: list[int] = []  # the first byte of each download of weights
        self.unknown: list[str] = []
        self.address = ""

    def commit(self, name: str) -> str:
        """The hash of a repository's present files."""
        files = sorted(self.repositories[name].items())
        return hashlib.sha1(b"".join(path.encode() + content for path, content in files)).hexdigest()


@contextlib.contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """`hub` on a port of this machine; it is the hub of huggingface_hub only through `use`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert not hub.unknown, hub.unknown


def use(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub ask `address`, with an empty cache, as HF_ENDPOINT and HF_HUB_CACHE would."""
    from huggingface_hub import constants, file_download

    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)  # what is kept between two tries
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # between tries
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        routes = {
            r"POST /api/repos/create": self._create,
            r"POST /api/validate-yaml": self._validate,
            r"GET /api/agent-harnesses": self._nothing,
            r"POST /api/models/([^/]+/[^/]+)/preupload/main": self._preupload,
            r"POST /api/models/([^/]+/[^/]+)/commit/main": self._commit,
            r"GET /api/models/([^/]+/[^/]+)(?:/revision/\w+)?": self._info,
            r"GET /api/models/([^/]+/[^/]+)/tree/(\w+)": self._tree,
            r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/(\w+)/(.+)": self._file,
        }
        for pattern, method in routes.items():
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match is not None:
                method(body, *match.groups())
                return
        self.hub.unknown.append(f"{self.command} {path}")
        self._json({"error": "no such address"}, code=404)

    def _json(self, content: Any, *, code: int = 200, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _create(self, body: bytes) -> None:
        if self.headers.get("Authorization") != "Bearer hf_of_a_test":
            self._json({"error": "Invalid username or password."}, code=401)
            return
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        self.hub.repositories.setdefault(name, {})
        self._json({"url": f"{self.hub.address}/{name}", "name": name})

    def _validate(self, body: bytes) -> None:
        self._json({"errors": [], "warnings": []})

    def _nothing(self, body: bytes) -> None:
        self._json({})

    def _preupload(self, body: bytes, name: str) -> None:
        files = [
            {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _commit(self, body: bytes, name: str) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.repositories[name][line["value"]["path"]] = content
        oid = self.hub.commit(name)
        self._json(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.address}/{name}/commit/{oid}"}
        )

    def _found(self, name: str) -> dict[str, bytes] | None:
        if name not in self.hub.repositories:
            self._json({"error": "Repository not found"}, code=404, X_Error_Code="RepoNotFound")
            return None
        return self.hub.repositories[name]

    def _info(self, body: bytes, name: str) -> None:
        files = self._found(name)
        if files is not None:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": self.hub.commit(name), "siblings": siblings})

    def _tree(self, body: bytes, name: str, revision: str) -> None:
        files = self._found(name)
        if files is not None:
            self._json(
                [
                    {
                        "type": "file",
                        "path": path,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for path, content in files.items()
                ]
            )

    def _file(self, body: bytes, name: str, revision: str, path: str) -> None:
        files = self._found(name)
        if files is None:
            return
        if revision not in ("main", self.hub.commit(name)):
            self._json({"error": "no such revision"}, code=404, X_Error_Code="RevisionNotFound")
            return
        if path not in files:
            self._json({"error": "no such file"}, code=404, X_Error_Code="EntryNotFound")
            return
        content = files[path]
        first = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[0])
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.hub.commit(name))
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(content)
        if path.endswith(".safetensors"):
            self.hub.started_at.append(first)
            end = end if self.hub.cut_after is None else min(end, self.hub.cut_after)
        for start in range(first, end, PIECE):
            self.wfile.write(content[start : min(start + PIECE, end)])
        if end < len(content):
            self.wfile.flush()
            self.close_connection = True
