"""The functions behind the page's events: anybody can call them, wrong arguments give one line."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs requirements-search.txt")

import gradio as gr

from demo.decoding import ClipDecoder, ClipLimits
from demo.limits import Limits
from demo.page import PageText, make_page
from demo.page_events import PageEvents
from search import Retriever, VideoIndex, VideoIndexError
from search.indexing import index_videos
from tests.search.conftest import COLOURS, coloured, write_model

SETTINGS = (12, 1.0, 2)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageEvents]:
    folder = tmp_path_factory.mktemp("page")
    retriever = Retriever.from_checkpoint(write_model(folder / "model"), device="cpu")
    (folder / "videos").mkdir()
    for name, colour in COLOURS.items():
        coloured(folder / "videos" / f"{name}.mp4", colour)
    index_videos(retriever, folder / "index", video_dir=folder / "videos", engine="exact")
    decoder = ClipDecoder(ClipLimits(seconds=60, pixels=10_000), timeout=30)
    with VideoIndex(folder / "index") as index:
        yield PageEvents(index, retriever, decoder, Limits(pixels=10_000))
    decoder.close()


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def event(data: Any) -> gr.EventData:
    return gr.EventData(None, data)


def names(html: str) -> list[str]:
    return re.findall(r'data-similar="([^"]*)"', html)


def error(html: str) -> str:
    """The message, if the HTML is nothing but an error."""
    found = re.fullmatch(r'<p class="error" role="alert">([^<]*)</p>', html)
    assert found, html
    return found.group(1)


def test_words_find_videos(events: PageEvents) -> None:
    html = events.search("a red picture", "", None, *SETTINGS)
    assert sorted(names(html)) == sorted(f"{name}.mp4" for name in COLOURS)
    assert "4 of 4 videos" in html and "<h2>a red picture</h2>" in html
    assert len(names(events.search("a red picture", None, None, 2, 0.0, 1))) == 2


def test_what_is_not_wanted_is_told_and_changes_the_scores(events: PageEvents) -> None:
    plain = events.search("a dog", "", None, *SETTINGS)
    without = events.search("a dog", " snow ", None, *SETTINGS)
    assert "a dog, not snow" in without
    scores = re.compile(r'title="score">([^<]*)<')
    assert scores.findall(plain) != scores.findall(without)


def test_remarks_are_shown(events: PageEvents) -> None:
    assert "The model was trained on English texts" in events.search("一只狗", "", None, *SETTINGS)


def test_an_uploaded_picture_or_clip_is_a_query(events: PageEvents, uploads: Path) -> None:
    cv2.imwrite(str(uploads / "blue.png"), np.full((48, 64, 3), (220, 40, 20), np.uint8))
    coloured(uploads / "red.mp4", COLOURS["red"])
    assert "<h2>blue.png</h2>" in events.search("", "", str(uploads / "blue.png"), *SETTINGS)
    html = events.search(None, "", str(uploads / "red.mp4"), *SETTINGS)
    assert names(html)[0] == "red.mp4"
    assert "<h2>a dog + red.mp4</h2>" in events.search("a dog", "", str(uploads / "red.mp4"), *SETTINGS)


def test_uploads_that_are_neither_get_a_line_without_folders(events: PageEvents, uploads: Path) -> None:
    with zipfile.ZipFile(uploads / "clip.mp4", "w") as archive:
        archive.writestr("a.txt", "text")
    (uploads / "picture.png").write_bytes(b"no picture")
    (uploads / "list.m3u8").write_text("#EXTM3U\nfile:///etc/hostname\n", encoding="utf-8")
    cv2.imwrite(str(uploads / "large.png"), np.zeros((200, 200, 3), np.uint8))
    expected = {
        "clip.mp4": "not a video by its contents",
        "picture.png": "not a picture by its contents",
        "list.m3u8": "not a video by its contents",
        "large.png": "200 x 200 pixels; give at most 10,000",
    }
    for name, why in expected.items():
        message = error(events.search("", "", str(uploads / name), *SETTINGS))
        assert message.startswith(f"The upload {name}: {why}") and str(uploads) not in message


@pytest.mark.parametrize("path", ["/etc/hostname", "{uploads}/../secret.png", "{uploads}", "{uploads}/gone"])
def test_only_uploaded_files_are_read(events: PageEvents, uploads: Path, path: str) -> None:
    cv2.imwrite(str(uploads.parent / "secret.png"), np.zeros((8, 8, 3), np.uint8))
    (uploads / "link.png").symlink_to(uploads.parent / "secret.png")
    for name in (path.format(uploads=uploads), str(uploads / "link.png")):
        assert "upload it again" in error(events.search("", "", name, *SETTINGS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "", None, *SETTINGS), "The query is empty"),
        (("  \u0000 ", "", None, *SETTINGS), "The query is empty"),
        (("", "snow", None, *SETTINGS), "The query is empty"),
        (("a" * 1001, "", None, *SETTINGS), "give at most 1,000"),
        (("a dog", "b" * 1001, None, *SETTINGS), "give at most 1,000"),
        ((7, "", None, *SETTINGS), "The query must be a text"),
        (("a dog", ["x"], None, *SETTINGS), "The text to exclude must be a text"),
        (("a dog", "", None, 101, 1.0, 2), "from 1 to 100"),
        (("a dog", "", None, 0, 1.0, 2), "from 1 to 100"),
        (("a dog", "", None, float("nan"), 1.0, 2), "Videos to show: give a number"),
        (("a dog", "", None, "12", 1.0, 2), "Videos to show: give a number"),
        (("a dog", "", None, 12, -1.0, 2), "Frame weight -1"),
        (("a dog", "", None, 12, float("inf"), 2), "Frame weight: give a number"),
        (("a dog", "", None, 12, None, 2), "Frame weight: give a number"),
        (("a dog", "", None, 12, 1.0, 0), "Top frames 0"),
        (("a dog", "", None, 12, 1.0, float("nan")), "Top frames: give"),
        (("a dog", "", None, 12, 1.0, True), "Top frames: give a number"),
    ],
)
def test_wrong_arguments_get_one_line(events: PageEvents, arguments: tuple[Any, ...], message: str) -> None:
    assert message in error(events.search(*arguments))


def test_similar_videos(events: PageEvents) -> None:
    html = events.similar(*SETTINGS, event({"id": "red.mp4"}))
    assert len(names(html)) == 3 and "red.mp4" not in names(html) and "<h2>Like red.mp4</h2>" in html


@pytest.mark.parametrize(
    "data", [None, "red.mp4", {}, {"id": None}, {"id": 3}, {"id": "../red.mp4"}, {"id": "x" * 10**5}]
)
def test_unknown_videos_get_one_line(events: PageEvents, data: Any) -> None:
    assert "not in the index any more" in error(events.similar(*SETTINGS, event(data)))


def test_faults_of_ours_are_logged_and_not_shown(
    events: PageEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in (RuntimeError, VideoIndexError):

        def broken(*_: Any, fault: type[Exception] = kind, **__: Any) -> None:
            raise fault("at /some/secret/place")

        monkeypatch.setattr(events.retriever, "search", broken)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert "secret" not in error(events.search("a dog", "", None, *SETTINGS))
        assert "at /some/secret/place" in caplog.text


def test_an_empty_index_says_so(events: PageEvents, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    index_videos(events.retriever, tmp_path / "index", video_dir=tmp_path / "videos", engine="exact")
    with VideoIndex(tmp_path / "index") as index:
        empty = PageEvents(index, events.retriever, events._decoder, events._limits)
        assert "The index is empty" in empty.search("a dog", "", None, *SETTINGS)
        shown = [block.get_config().get("value") for block in make_page(empty, PageText()).blocks.values()]
        assert any("The index is empty" in str(value) for value in shown)
