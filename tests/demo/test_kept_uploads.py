"""Files that the page keeps: under opaque ids, within a number of bytes, deleted after a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from demo.kept_uploads import KeptUploads
from demo.limits import Limits
from search import QueryError, Retriever
from tests.demo.conftest import FREE, Served, client_of
from tests.demo.test_api import error_of

BLOCK = 4096


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


def receive(uploads: KeptUploads, *chunks: bytes, name: str = "a.mp4", length: int | None = None) -> str:
    return asyncio.run(uploads.receive(pieces(*chunks), name=name, length=length))


def path_of(uploads: KeptUploads, upload_id: str) -> Path:
    found = uploads.find(upload_id)
    assert found is not None
    return found.path


def test_a_file_is_kept_under_an_id() -> None:
    uploads = KeptUploads(Limits())
    upload_id = receive(uploads, b"vid", b"eo", name="C:\\videos\\my\nclip.mp4")
    found = uploads.find(upload_id)
    assert found is not None and found.name == "my clip.mp4" and found.path.read_bytes() == b"video"
    assert found.path.parent.stat().st_mode & 0o077 == 0 and uploads.size == BLOCK
    assert uploads.find(None) is None and uploads.find("") is None
    for unknown in ("x", "../" + upload_id, str(found.path), 3, ["x"], {"path": str(found.path)}):
        with pytest.raises(QueryError, match="upload it again"):
            uploads.find(unknown)
    uploads.close()
    assert not found.path.parent.exists()


def test_the_oldest_make_room() -> None:
    uploads = KeptUploads(Limits(upload_bytes=BLOCK, upload_folder_bytes=3 * BLOCK))
    ids = [receive(uploads, b"x") for _ in range(5)]
    kept = [upload_id for upload_id in ids if upload_id in uploads._files]
    assert kept == ids[2:] and uploads.size == 3 * BLOCK
    folder = path_of(uploads, kept[0]).parent
    assert sorted(file.name for file in folder.iterdir()) == sorted(kept)
    uploads.close()


def test_what_arrives_at_once_is_counted_together() -> None:
    uploads = KeptUploads(Limits(upload_bytes=BLOCK, upload_folder_bytes=2 * BLOCK))

    async def three() -> list[str | BaseException]:
        sent = (uploads.receive(pieces(b"x", b"y"), name="a", length=2) for _ in range(3))
        return await asyncio.gather(*sent, return_exceptions=True)

    outcomes = asyncio.run(three())
    assert [isinstance(outcome, str) for outcome in outcomes] == [True, True, False]
    assert getattr(outcomes[2], "status_code", None) == 503
    uploads.close()


@pytest.mark.parametrize(
    ("chunks", "length", "status"),
    [((b"x" * 5000,), None, 413), ((b"x",), 5000, 413), ((b"xx", b"xx"), 3, 413), ((), None, 400)],
)
def test_a_file_that_is_refused_leaves_nothing(
    chunks: tuple[bytes, ...], length: int | None, status: int
) -> None:
    uploads = KeptUploads(Limits(upload_bytes=BLOCK))
    with pytest.raises(Exception) as refused:
        receive(uploads, *chunks, length=length)
    assert getattr(refused.value, "status_code", None) == status and uploads.size == 0
    assert uploads._folder is None or not list(uploads._folder.iterdir())
    uploads.close()


def test_files_are_deleted_after_a_time() -> None:
    uploads = KeptUploads(Limits(upload_keep_seconds=0.05))

    async def wait() -> Path:
        upload_id = await uploads.receive(pieces(b"x"), name="a", length=1)
        path = path_of(uploads, upload_id)
        assert path.is_file()
        await asyncio.sleep(0.2)
        return path

    assert not asyncio.run(wait()).exists() and uploads.size == 0
    uploads.close()


def test_the_route_tells_no_path(served: Served, retriever: Retriever) -> None:
    limits = Limits(search_rate=FREE, other_rate=FREE, upload_bytes=1 << 20)
    with client_of(served, retriever, limits) as client:
        answer = client.post("/uploads?name=a.mp4", content=b"video")
        assert answer.status_code == 200 and list(answer.json()) == ["id"]
        assert "/" not in answer.json()["id"] and _uploads(client).find(answer.json()["id"])
        assert "send at most 1 MiB" in error_of(client.post("/uploads", content=bytes((1 << 20) + 1)), 413)
        folder = _uploads(client)._folder
        assert folder is not None and folder.is_dir()
    assert not folder.exists()


def _uploads(client: TestClient) -> KeptUploads:
    uploads = client.app.state.uploads  # type: ignore[attr-defined]
    assert isinstance(uploads, KeptUploads)
    return uploads
