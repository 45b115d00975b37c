"""Files of videos: ranges, deleted files, links."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from demo.media import MediaFiles, content_type
from search import Retriever, VideoRecord
from tests.demo.conftest import LIMITS, Served, client_of
from tests.demo.test_api import error_of

URL = "/video/red.mp4"


@pytest.fixture
def scratch_client(scratch: Served, retriever: Retriever) -> Iterator[TestClient]:
    """A client of an index whose files may be changed."""
    with client_of(scratch, retriever, LIMITS) as made:
        yield made


def test_a_whole_file(client: TestClient, served: Served) -> None:
    answer = client.get(URL)
    data = (served.videos / "red.mp4").read_bytes()
    assert answer.status_code == 200 and answer.content == data
    assert answer.headers["content-type"] == "video/mp4" and answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = client.head(URL)
    assert head.status_code == 200 and head.content == b""
    for name in ("content-length", "etag", "last-modified", "content-type"):
        assert head.headers[name] == answer.headers[name]


@pytest.mark.parametrize(
    ("requested", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, None),
        ("bytes=-50", -50, None),
        ("bytes=-99999999", 0, None),
        ("bytes=10-99999999", 10, None),
        ("Bytes= 7-9 ", 7, 10),
    ],
)
def test_a_range(requested: str, start: int, stop: int | None, client: TestClient, served: Served) -> None:
    data = (served.videos / "red.mp4").read_bytes()
    piece = data[start:stop]
    answer = client.get(URL, headers={"Range": requested})
    assert answer.status_code == 206 and answer.content == piece
    first = start % len(data) if start < 0 else start
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(piece) - 1}/{len(data)}"
    assert answer.headers["content-length"] == str(len(piece))


@pytest.mark.parametrize(
    "requested",
    [
        *("bytes=5-3", "bytes=0-1,5-6", "bytes=-", "bytes=a-b", "bytes=", "items=0-1", "0-1"),
        *("bytes=--1", "bytes=1-2-3", "bytes=" + "9" * 400 + "-", "bytes=\xb2-\xb3"),
    ],
)
def test_what_is_no_single_range_gets_the_whole_file(requested: str, client: TestClient) -> None:
    answer = client.get(URL, headers={"Range": requested.encode("latin-1")})
    assert answer.status_code == 200 and "content-range" not in answer.headers


@pytest.mark.parametrize("requested", ["bytes=99999999-", "bytes=99999999-100000000", "bytes=-0"])
def test_a_range_behind_the_end(requested: str, client: TestClient, served: Served) -> None:
    size = (served.videos / "red.mp4").stat().st_size
    answer = client.get(URL, headers={"Range": requested})
    assert error_of(answer, 416) == f"the file has {size} bytes"
    assert answer.headers["content-range"] == f"bytes */{size}"


def test_conditions(client: TestClient) -> None:
    headers = client.head(URL).headers
    matching = {"Range": "bytes=0-9", "If-Range": headers["etag"]}
    assert client.get(URL, headers=matching).status_code == 206
    assert client.get(URL, headers={**matching, "If-Range": headers["last-modified"]}).status_code == 206
    assert client.get(URL, headers={**matching, "If-Range": '"another"'}).status_code == 200
    assert client.get(URL, headers={**matching, "If-Range": "W/" + headers["etag"]}).status_code == 200
    unchanged = client.get(URL, headers={"If-None-Match": f'"x", W/{headers["etag"]}'})
    assert (
        unchanged.status_code == 304
        and unchanged.content == b""
        and unchanged.headers["etag"] == headers["etag"]
    )


def test_a_deleted_video(scratch_client: TestClient, scratch: Served) -> None:
    (scratch.videos / "red.mp4").unlink()
    assert "was deleted after indexing" in error_of(scratch_client.get(URL), 404)
    assert error_of(scratch_client.get(URL, headers={"Range": "bytes=0-1"}), 404)
    video = scratch_client.get("/videos/red.mp4").json()
    assert video["missing"] is True and video["video_url"] is None
    hits = {hit["video_id"]: hit for hit in scratch_client.get("/search?q=red").json()["hits"]}
    assert hits["red.mp4"]["missing"] is True and hits["red.mp4"]["video_url"] is None
    assert scratch_client.get(hits["red.mp4"]["thumbnail_url"]).status_code == 200


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_only_regular_files(kind: str, scratch_client: TestClient, scratch: Served) -> None:
    path = scratch.videos / "red.mp4"
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    assert "was deleted after indexing" in error_of(scratch_client.get(URL), 404)


def test_a_link_turned_to_another_file_is_refused(scratch_client: TestClient, scratch: Served) -> None:
    secret = scratch.folder / "secret.txt"
    secret.write_text("password", encoding="utf-8")
    path = scratch.videos / "red.mp4"
    before = path.stat()
    path.unlink()
    path.symlink_to(secret)
    assert "now a link to a file outside" in error_of(scratch_client.get(URL), 404)
    secret.write_bytes(b"x" * before.st_size)  # even of the size and time of what was indexed
    os.utime(secret, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "now a link to a file outside" in error_of(scratch_client.get(URL), 404)


def test_links_within_the_folder_and_to_what_was_indexed_are_served(
    scratch_client: TestClient, scratch: Served
) -> None:
    path = scratch.videos / "red.mp4"
    data = path.read_bytes()
    elsewhere = scratch.folder / "disk"
    elsewhere.mkdir()
    shutil.move(path, elsewhere / "red.mp4")
    path.symlink_to(elsewhere / "red.mp4")
    for _ in range(2):
        assert scratch_client.get(URL).content == data
    path.unlink()
    path.symlink_to("blue.mp4")
    assert scratch_client.get(URL).content == (scratch.videos / "blue.mp4").read_bytes()


def test_a_folder_turned_to_another_is_refused(
    scratch_client: TestClient, scratch: Served, tmp_path: Path
) -> None:
    url = scratch_client.get("/search?q=a").json()["hits"]
    (url,) = [hit["video_url"] for hit in url if hit["video_id"].startswith("more/")]
    outside = scratch.folder / "outside"
    outside.mkdir()
    for path in (scratch.videos / "more").iterdir():
        (outside / path.name).write_text("another file", encoding="utf-8")
        path.unlink()
    (scratch.videos / "more").rmdir()
    (scratch.videos / "more").symlink_to(outside)
    assert "now a link" in error_of(scratch_client.get(url), 404)


def test_no_descriptor_stays_open(client: TestClient) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    client.get(URL)
    before = count()
    for headers in ({}, {"Range": "bytes=-0"}, {"Range": "bytes=1-2"}, {"If-None-Match": "*"}) * 5:
        client.get(URL, headers=headers)
        client.head(URL, headers=headers)
    assert count() <= before


def test_thumbnails(client: TestClient) -> None:
    middle, first, last = (client.get(f"/thumbnail/red.mp4{q}") for q in ("", "?frame=0", "?frame=1000"))
    assert {item.headers["content-type"] for item in (middle, first, last)} == {"image/jpeg"}
    assert first.content != last.content and "max-age" in first.headers["cache-control"]
    again = client.get("/thumbnail/red.mp4?frame=0", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    for frame in ("-1", "10000001", "a", "9" * 5000):
        line = error_of(client.get(f"/thumbnail/red.mp4?frame={frame}"), 400)
        assert line.startswith("frame") and "give a whole number from 0 to 10,000,000" in line


def test_an_index_without_files_and_thumbnails_says_so(
    scratch: Served, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = scratch.index.catalog
    with catalog.transaction():
        catalog._db.execute("UPDATE videos SET path = NULL")
        catalog._db.execute("DELETE FROM thumbnails")
    with client_of(scratch, retriever, LIMITS) as client:
        assert "stored frames of this video, and no file" in error_of(client.get(URL), 404)
        assert "no thumbnail" in error_of(client.get("/thumbnail/red.mp4"), 404)
        hit = client.get("/search?q=a").json()["hits"][0]
        assert hit["video_url"] is None and hit["missing"] is False


def test_content_types() -> None:
    assert content_type("a/b.MKV") == "video/x-matroska"
    assert content_type("mp4") == "video/mp4" and content_type("x.html") == "application/octet-stream"


def test_an_empty_file(scratch_client: TestClient, scratch: Served) -> None:
    (scratch.videos / "red.mp4").write_bytes(b"")
    whole = scratch_client.get(URL)
    assert whole.status_code == 200 and whole.content == b"" and whole.headers["content-length"] == "0"
    for requested in ("bytes=0-", "bytes=-1", "bytes=0-0"):
        assert error_of(scratch_client.get(URL, headers={"Range": requested}), 416) == "the file has 0 bytes"


def test_a_file_that_grows_while_it_is_sent(
    scratch_client: TestClient, scratch: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scratch.videos / "red.mp4"
    data = path.read_bytes()
    opened = MediaFiles.open

    def open_and_grow(files: MediaFiles, record: VideoRecord) -> tuple[int, os.stat_result]:
        found = opened(files, record)
        with open(path, "ab") as file:
            file.write(bytes(1 << 20))
        return found

    monkeypatch.setattr(MediaFiles, "open", open_and_grow)
    answer = scratch_client.get(URL)
    assert answer.content == data and answer.headers["content-length"] == str(len(data))
