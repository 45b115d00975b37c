"""Searches by uploaded pictures and clips, and uploads that are neither."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from demo import decoding
from demo.decoding import ClipDecoder, ClipLimits, UploadError, run_limited_job
from demo.limits import Limits
from search import Retriever
from search.clips import video_job
from tests.demo.conftest import FREE, LIMITS, Served, client_of
from tests.demo.test_api import error_of
from video.worker_pool import WorkerPool


def picture(extension: str = ".png", side: int = 64) -> bytes:
    """A red picture file."""
    done, data = cv2.imencode(extension, np.full((side, side, 3), (30, 30, 220), np.uint8))
    assert done
    return data.tobytes()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def archive() -> bytes:
    """A zip file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("a.txt", "text" * 1000)
    return data.getvalue()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for temporary files of this process during these tests."""
    folder = tmp_path_factory.mktemp("tmp")
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before


@pytest.fixture(autouse=True)
def _leaves_nothing(uploads: Path) -> Iterator[None]:
    yield
    assert os.listdir(uploads) == []


def post(client: TestClient, data: dict[str, Any] | None = None, **files: tuple[str, bytes]) -> Any:
    return client.post("/search", data=data or {}, files=files or {"image": ("", b"")})


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".bmp"])
def test_a_picture_as_the_query(extension: str, client: TestClient) -> None:
    answer = post(client, {"top": "2"}, image=(f"../../odd name{extension}", picture(extension)))
    assert answer.status_code == 200 and len(answer.json()["hits"]) == 2


def test_pictures_and_clips_are_searched_as_by_the_library(
    client: TestClient, served: Served, retriever: Retriever, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    clip = served.videos / "blue.mp4"
    files = {"image": ("a.png", picture()), "video": ("b.mp4", clip.read_bytes())}
    fields = {"q": "a thing", "not": ["snow", "rain"], "top": "3", "frame_weight": "0.5", "top_frames": "1"}
    found = post(client, fields, **files).json()
    expected = retriever.search(
        served.index, "a thing", image=tmp_path / "a.png", video=clip, exclude=["snow", "rain"], top=3,
        frame_weight=0.5, top_frames=1,
    )  # fmt: skip
    assert [(hit["video_id"], hit["score"]) for hit in found["hits"]] == [
        (hit.video_id, pytest.approx(hit.score, abs=1e-5)) for hit in expected
    ]
    alone = post(client, video=("b.mp4", clip.read_bytes())).json()["hits"][0]
    assert alone["video_id"] == "blue.mp4" and alone["video_score"] > 0.999


def test_a_form_without_files(client: TestClient) -> None:
    assert post(client, {"q": "red"}).status_code == 200
    assert client.post("/search", data={"q": "red", "top": ""}).status_code == 200
    assert "the query is empty" in error_of(post(client, {"q": " "}), 400)


@pytest.mark.parametrize(
    ("name", "data", "status", "message"),
    [
        ("image", b"just a text", 415, "image: not a picture by its contents; send JPEG, PNG, WebP or BMP"),
        ("image", b"", 415, "image: not a picture"),
        ("image", picture(".jpg")[:200], 415, "image: "),
        ("image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "image: not a picture"),
        ("image", png(60_000, 60_000, zlib.compress(bytes(1000))), 413, "image: "),
        (
            "image",
            png(8_000, 7_000, zlib.compress(bytes(1000))),
            413,
            "image: 8000 x 7000 pixels; give at most",
        ),
        (
            "image",
            png(1, 900_000, zlib.compress(bytes(4 * 900_000))),
            413,
            "image: 1 x 900000 pixels; give one",
        ),
        ("image", png(0, 0), 415, "image: "),
        ("image", png(4, 4, b"no zlib"), 415, "image: "),
        ("video", archive(), 415, "video: not a video by its contents; send MP4"),
        ("video", b"", 415, "video: the file is empty"),
        ("video", b"text" * 100, 415, "video: not a video"),
        ("video", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "video: not a video"),
        ("video", b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "video: not a video"),
        ("video", b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(500), 415, "video: cannot be decoded"),
        ("video", b"\x1aE\xdf\xa3" + bytes(2000), 415, "video: cannot be decoded"),
        ("video", picture(), 415, "video: not a video"),
    ],
)
def test_uploads_are_judged_by_their_contents(
    name: str, data: bytes, status: int, message: str, client: TestClient
) -> None:
    line = error_of(post(client, **{name: ("fine.mp4" if name == "video" else "fine.png", data)}), status)
    assert line.startswith(message), line
    assert "hmmc-upload" not in line


def test_a_cut_off_video_gives_what_is_there_or_is_refused(client: TestClient, served: Served) -> None:
    data = (served.videos / "red.mp4").read_bytes()
    line = error_of(post(client, video=("a.mp4", data[: len(data) // 2])), 415)
    assert line.startswith("video: cannot be decoded")


def test_clips_have_limits_of_length_size_and_time(served: Served, retriever: Retriever) -> None:
    data = {"video": ("a.mp4", (served.videos / "red.mp4").read_bytes())}
    for limits, message in (
        (Limits(clip_seconds=0.5, search_rate=FREE), "video: 2 s; give at most 0 s"),
        (Limits(pixels=100, search_rate=FREE), "video: 64 x 48 pixels; give at most 100"),
        (Limits(upload_bytes=1000, search_rate=FREE), "video: the file is too large; send at most"),
    ):
        with client_of(served, retriever, limits) as client:
            assert error_of(post(client, **data), 413).startswith(message)


def hang(task: object) -> object:
    """A clip whose decoding does not end."""
    while True:
        pass


def die(task: object) -> object:
    """A clip that kills the decoder."""
    os._exit(3)


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [(hang, 413, "video: decoding took longer than 1 s"), (die, 415, "video: cannot be decoded")],
)
def test_no_clip_hangs_or_ends_the_server(
    function: Any, status: int, message: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pool(real: Any, **settings: Any) -> WorkerPool[Any]:
        return WorkerPool(function, **settings)

    monkeypatch.setattr(decoding, "WorkerPool", pool)
    decoder = ClipDecoder(ClipLimits(seconds=60, pixels=10**6), timeout=1.0)
    try:
        with pytest.raises(UploadError, match=message) as raised:
            decoder.decode(served.videos / "red.mp4", frames=4, size=32)
        assert raised.value.status == status
    finally:
        decoder.close()


def test_the_decoder_goes_on_after_a_worker_was_ended(served: Served) -> None:
    decoder = ClipDecoder(ClipLimits(seconds=60, pixels=10**6), timeout=60.0)
    try:
        for _ in range(2):
            clip = decoder.decode(served.videos / "red.mp4", frames=4, size=32)
            assert tuple(clip.frames.shape) == (4, 3, 32, 32)
            assert decoder._pool is not None
            os.kill(decoder._pool.process_ids[0], 9)
    finally:
        decoder.close()


def test_the_worker_judges_before_it_decodes(served: Served) -> None:
    task = decoding._LimitedJob(video_job(served.videos / "red.mp4"), ClipLimits(60, 10**6))
    record, jpegs = run_limited_job(task)
    assert record["duration"] == pytest.approx(1.6, abs=0.1) and len(jpegs) == 30


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("application/json", b'{"q": "a"}', 415, "Content-Type 'application/json': send a form"),
        ("", b"q=a", 415, "Content-Type ''"),
        ("multipart/form-data", b"--x\r\n", 400, "boundary"),
        ("multipart/form-data; boundary=x", b"no boundary here", 400, ""),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--",
            400,
            "",
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nBroken\r\n\r\na\r\n--x--", 400, ""),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="q"\r\n\r\na',
            400,
            "",
        ),
        ("multipart/form-data; boundary=\xff\xfe", b"--x", 400, ""),
        ("multipart/form-data; charset=nonsense; boundary=x", b"--x\r\n\r\n", 400, ""),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x", 400, ""),
        ("application/x-www-form-urlencoded", b"q=a&colour=red", 400, "field 'colour': not known here"),
        ("application/x-www-form-urlencoded", b"image=a", 400, "image: send a file, not a text"),
        ("application/x-www-form-urlencoded", b"top=0&q=a", 400, "top '0': give a whole number"),
        ("application/x-www-form-urlencoded", b"&a=" * 500, 400, ""),
        ("application/x-www-form-urlencoded", b"q=" + b"a" * 70_000, 400, ""),
        ("application/x-www-form-urlencoded", b"\xff\xfe=%zz", 400, ""),
    ],
)
def test_broken_forms(kind: str, body: bytes, status: int, message: str, client: TestClient) -> None:
    answer = client.post("/search", content=body, headers={"Content-Type": kind.encode("latin-1")})
    assert message in error_of(answer, status)


def test_one_file_of_each_kind(client: TestClient) -> None:
    twice = [("image", ("a.png", picture())), ("image", ("b.png", picture()))]
    assert error_of(client.post("/search", files=twice), 400) == "image: send one file"
    assert error_of(post(client, q=("a.txt", b"text")), 400).startswith("q: give a text")
    assert error_of(client.post("/search", files=[*twice, ("image", ("c", b"x"))]), 400)


def test_texts_are_checked_before_files_are_decoded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("demo.api.decode_picture", decoded)
    answer = post(client, {"q": "a" * 1001}, image=("a.png", picture()))
    assert "q: has 1,001 characters" in error_of(answer, 400)


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert Limits().upload_bytes == 64 << 20 and LIMITS.upload_bytes == Limits().upload_bytes


def test_frames_are_measured_after_decoding_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    _, line = cv2.imencode(".jpg", np.zeros((2, 2000, 3), np.uint8))
    monkeypatch.setattr(decoding, "run_job", lambda job: ({}, [line.tobytes()]))
    task = decoding._LimitedJob(video_job(served.videos / "red.mp4"), ClipLimits(60, 10**6))
    error, jpegs = run_limited_job(task)
    assert error.message == "2000 x 2 pixels; give one side at most 50 times the other" and jpegs == []
