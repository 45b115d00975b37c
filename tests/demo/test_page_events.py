"""The functions behind the page's events: anybody can call them, wrong arguments give one line."""

from __future__ import annotations

import asyncio
import logging
import re
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs requirements-search.txt")

from demo.decoding import ClipDecoder, ClipLimits
from demo.kept_uploads import KeptUploads
from demo.limits import Limits
from demo.page.blocks import PageText, make_page
from demo.page.events import PageEvents
from search import Retriever, VideoIndex, VideoIndexError
from search.indexing import index_videos
from tests.search.conftest import COLOURS, coloured, write_model

SETTINGS = (12, 1.0, 2)
NOTHING = ("", *SETTINGS)  # no video to be like


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageEvents]:
    folder = tmp_path_factory.mktemp("page")
    retriever = Retriever.from_checkpoint(write_model(folder / "model"), device="cpu")
    (folder / "videos").mkdir()
    for name, colour in COLOURS.items():
        coloured(folder / "videos" / f"{name}.mp4", colour)
    index_videos(retriever, folder / "index", video_dir=folder / "videos", engine="exact")
    decoder = ClipDecoder(ClipLimits(seconds=60, pixels=10_000), timeout=30)
    limits = Limits(pixels=10_000)
    uploads = KeptUploads(limits)
    with VideoIndex(folder / "index") as index:
        yield PageEvents(index, retriever, decoder, uploads, limits)
    decoder.close()
    uploads.close()


def upload(events: PageEvents, file: Path) -> str:
    """The id of an uploaded file."""

    async def content() -> AsyncIterator[bytes]:
        yield file.read_bytes()

    return asyncio.run(events._uploads.receive(content(), name=file.name, length=None))


def names(html: str) -> list[str]:
    return re.findall(r'data-similar="([^"]*)"', html)


def error(html: str) -> str:
    """The message, if the HTML is nothing but an error."""
    found = re.fullmatch(r'<p class="error" role="alert" lang="en">([^<]*)</p>', html)
    assert found, html
    return found.group(1)


def test_words_find_videos(events: PageEvents) -> None:
    html = events.search("a red picture", "", None, *NOTHING)
    assert sorted(names(html)) == sorted(f"{name}.mp4" for name in COLOURS)
    assert "4 of 4 videos" in html and '<h2 title="a red picture">a red picture</h2>' in html
    assert len(names(events.search("a red picture", None, None, "", 2, 0.0, 1))) == 2


def test_what_is_not_wanted_is_told_and_changes_the_scores(events: PageEvents) -> None:
    plain = events.search("a dog", "", None, *NOTHING)
    without = events.search("a dog", " snow ", None, *NOTHING)
    assert "a dog, not snow" in without
    scores = re.compile(r'title="score">([^<]*)<')
    assert scores.findall(plain) != scores.findall(without)


def test_remarks_are_shown(events: PageEvents) -> None:
    assert "The model was trained on English texts" in events.search("一只狗", "", None, *NOTHING)


def heading(html: str) -> str:
    return str(re.findall("<h2[^>]*>([^<]*)</h2>", html)[0])


def test_an_uploaded_picture_or_clip_is_a_query(events: PageEvents, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((48, 64, 3), (220, 40, 20), np.uint8))
    coloured(tmp_path / "red.mp4", COLOURS["red"])
    picture, clip = upload(events, tmp_path / "blue.png"), upload(events, tmp_path / "red.mp4")
    assert heading(events.search("", "", picture, *NOTHING)) == "blue.png"
    html = events.search(None, "", clip, *NOTHING)
    assert names(html)[0] == "red.mp4"
    assert heading(events.search("a dog", "", clip, *NOTHING)) == "a dog + red.mp4"


def test_uploads_that_are_neither_get_a_line_without_folders(events: PageEvents, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "clip.mp4", "w") as archive:
        archive.writestr("a.txt", "text")
    (tmp_path / "picture.png").write_bytes(b"no picture")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\nfile:///etc/hostname\n", encoding="utf-8")
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((200, 200, 3), np.uint8))
    expected = {
        "clip.mp4": "not a video by its contents",
        "picture.png": "not a picture by its contents",
        "list.m3u8": "not a video by its contents",
        "large.png": "200 x 200 pixels; give at most 10,000",
    }
    for name, why in expected.items():
        upload_id = upload(events, tmp_path / name)
        message = error(events.search("", "", upload_id, *NOTHING))
        assert message.startswith(f"The upload {name}: {why}")
        assert str(events._uploads._folder) not in message and upload_id not in message


@pytest.mark.parametrize("upload_id", ["/etc/hostname", "../x", "gone", 7, ["x"], {"path": "/etc/hostname"}])
def test_only_uploaded_files_are_read(events: PageEvents, upload_id: Any) -> None:
    assert "upload it again" in error(events.search("", "", upload_id, *NOTHING))


def test_an_upload_that_is_deleted_during_a_search(events: PageEvents, tmp_path: Path) -> None:
    coloured(tmp_path / "red.mp4", COLOURS["red"])
    upload_id = upload(events, tmp_path / "red.mp4")
    found = events._uploads.find(upload_id)
    assert found is not None
    found.path.unlink()
    message = error(events.search("", "", upload_id, *NOTHING))
    assert "red.mp4" in message or "upload it again" in message


def test_an_address_that_asks_for_nothing_shows_the_hint(events: PageEvents) -> None:
    assert "Search by words" in events.restore("", "", "", *NOTHING)
    assert heading(events.restore("a dog", "", "", *NOTHING)) == "a dog"


def test_a_long_query_is_short_in_the_heading(events: PageEvents) -> None:
    long = "a dog " * 150
    html = events.search(long, "", None, *NOTHING)
    assert len(heading(html)) == 100 and f'title="{long.strip()}"' in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "", None, *NOTHING), "The query is empty"),
        (("  \u0000 ", "", None, *NOTHING), "The query is empty"),
        (("", "snow", None, *NOTHING), "The query is empty"),
        (("a" * 1001, "", None, *NOTHING), "give at most 1,000"),
        (("a dog", "b" * 1001, None, *NOTHING), "give at most 1,000"),
        ((7, "", None, *NOTHING), "The query must be a text"),
        (("a dog", ["x"], None, *NOTHING), "The text to exclude must be a text"),
        (("a dog", "", None, "", 101, 1.0, 2), "from 1 to 100"),
        (("a dog", "", None, "", 0, 1.0, 2), "from 1 to 100"),
        (("a dog", "", None, "", float("nan"), 1.0, 2), "Videos to show: give a number"),
        (("a dog", "", None, "", "12", 1.0, 2), "Videos to show: give a number"),
        (("a dog", "", None, "", 12, -1.0, 2), "Frame weight -1"),
        (("a dog", "", None, "", 12, float("inf"), 2), "Frame weight: give a number"),
        (("a dog", "", None, "", 12, None, 2), "Frame weight: give a number"),
        (("a dog", "", None, "", 12, 1.0, 0), "Top frames 0"),
        (("a dog", "", None, "", 12, 1.0, float("nan")), "Top frames: give"),
        (("a dog", "", None, "", 12, 1.0, True), "Top frames: give a number"),
    ],
)
def test_wrong_arguments_get_one_line(events: PageEvents, arguments: tuple[Any, ...], message: str) -> None:
    assert message in error(events.search(*arguments))


def test_similar_videos(events: PageEvents) -> None:
    html = events.search("ignored", "", None, "red.mp4", *SETTINGS)
    assert len(names(html)) == 3 and "red.mp4" not in names(html) and heading(html) == "Like red.mp4"


@pytest.mark.parametrize("like", ["red", {"id": "red.mp4"}, 3, ["red.mp4"], "../red.mp4", "x" * 10**5])
def test_unknown_videos_get_one_line(events: PageEvents, like: Any) -> None:
    assert "not in the index any more" in error(events.search("a dog", "", None, like, *SETTINGS))


def test_faults_of_ours_are_logged_and_not_shown(
    events: PageEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in (RuntimeError, VideoIndexError):

        def broken(*_: Any, fault: type[Exception] = kind, **__: Any) -> None:
            raise fault("at /some/secret/place")

        monkeypatch.setattr(events.retriever, "search", broken)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert "secret" not in error(events.search("a dog", "", None, *NOTHING))
        assert "at /some/secret/place" in caplog.text


def test_an_empty_index_says_so(events: PageEvents, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    index_videos(events.retriever, tmp_path / "index", video_dir=tmp_path / "videos", engine="exact")
    with VideoIndex(tmp_path / "index") as index:
        empty = PageEvents(index, events.retriever, events._decoder, events._uploads, events._limits)
        assert "The index is empty" in empty.search("a dog", "", None, *NOTHING)
        shown = [block.get_config().get("value") for block in make_page(empty, PageText()).blocks.values()]
        assert any("The index is empty" in str(value) for value in shown)
