"""The page in a real browser: searching, playing, uploading, small windows; nothing leaves the machine."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.demo.browser import Browser, serve, wait_for, why_not

pytest.importorskip("gradio", reason="needs requirements-search.txt")

from demo.app import create_app
from demo.page.blocks import PageText, mount_page
from search import Retriever, VideoIndex
from search.indexing import index_videos
from tests.search.conftest import COLOURS, coloured, write_model
from tools.toy.bert import write_toy_bert

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
ODD = "<img src=x onerror=document.title='bad'> ${1+1} {{2}} & \"50%\" #1.mp4"
LONG = "long_" * 40 + ".mp4"
UNPLAYABLE = "old.mpg"


@dataclass(frozen=True)
class Site:
    """A running page and the videos behind it."""

    address: str
    videos: Path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Gradio's folder for uploads, deleted after the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, uploads: None) -> Iterator[Site]:
    """English, untrained: four colours, odd names, a format that browsers do not play, one file gone."""
    folder = tmp_path_factory.mktemp("site")
    videos = folder / "videos"
    videos.mkdir()
    for name, colour in COLOURS.items():
        coloured(videos / f"{name}.mp4", colour, frames=100)
    coloured(videos / ODD, (200, 200, 30))
    coloured(videos / LONG, (30, 200, 200))
    coloured(videos / UNPLAYABLE, (90, 10, 90))
    coloured(videos / "gone.mp4", (10, 10, 10))
    retriever = Retriever.from_checkpoint(write_model(folder / "model"), device="cpu")
    index_videos(retriever, folder / "index", video_dir=videos, engine="exact")
    (videos / "gone.mp4").unlink()
    with VideoIndex(folder / "index") as index:
        app = create_app(index, retriever)
        mount_page(app, index, retriever, PageText(("a red picture", "a green picture"), "A <toy> model."))
        with serve(app) as address:
            yield Site(address, videos)


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Browser]:
    """A fresh page. After the test: no script failed, and no other host got a request."""
    browser.hosts(), browser.complaints()
    browser.open(site.address)
    yield browser
    assert browser.hosts() == {"127.0.0.1"}
    assert browser.complaints() == []


def card(browser: Browser, name: str, part: str) -> object:
    """A part of the card of a video."""
    return browser.run(
        "return [...document.querySelectorAll('.card')].find(c => c.querySelector('.name').title === "
        "arguments[0])?.querySelector(arguments[1])",
        name,
        part,
    )


def test_words_find_videos_and_a_click_plays_from_the_best_moment(page: Browser) -> None:
    page.search("a red picture")
    assert len(page.all(".card")) == 8 and page.text(".count").startswith("8 of 8 videos")
    assert page.text(".card:first-child .place") == "1" and page.text(".intro + .remark") == "A <toy> model."
    page.run("document.querySelectorAll('.shot img').forEach(i => i.loading = 'eager')")
    pictures = "return [...document.querySelectorAll('.shot img')].every(i => i.complete && i.naturalWidth)"
    wait_for(lambda: page.run(pictures), what="thumbnails")

    shots = [s for s in page.all("[data-play]") if float(s.get_attribute("data-second")) > 0.5]
    second = float(shots[0].get_attribute("data-second"))
    page.run("arguments[0].click()", shots[0])
    video = page.wait("dialog[open] video")
    start = "var v = arguments[0]; return v.currentTime > arguments[1] && [...Array(v.played.length).keys()]"
    begun = wait_for(lambda: page.run(f"{start}.map(i => v.played.start(i))", video, second), what="playing")
    assert begun == [pytest.approx(second, abs=0.05)]
    page.press("ESCAPE")
    wait_for(lambda: not page.all("dialog[open]") and not page.all("dialog video"), what="a closed player")


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.search("a dog")
    for _ in range(20):
        page.press("TAB")
        if page.run("return document.activeElement.matches('.card:first-child [data-play]')"):
            break
    else:
        pytest.fail("the first result cannot be reached by Tab")
    page.press("ENTER")
    page.wait("dialog[open] video")
    page.press("ESCAPE")
    wait_for(lambda: not page.all("dialog[open]"), what="a closed player")
    assert page.run("return document.activeElement.matches('.card:first-child [data-play]')")
    page.press("TAB")
    page.press("ENTER")
    wait_for(lambda: page.text(".heading h2").startswith("Like "), what="similar videos")


def test_similar_videos(page: Browser) -> None:
    page.search("a dog")
    page.run("arguments[0].click()", card(page, ODD, ".like"))
    wait_for(lambda: page.text(".heading h2") == f"Like {ODD}", what="similar videos")
    assert len(page.all(".card")) == 7 and not card(page, ODD, ".like")


def test_names_are_shown_and_do_nothing_else(page: Browser) -> None:
    page.search("a dog")
    names = page.run("return [...document.querySelectorAll('.card .name')].map(n => n.textContent)")
    assert ODD in names and LONG in names and not page.all(".card .name img")
    page.run("arguments[0].click()", card(page, ODD, "[data-play]"))
    video = page.wait("dialog[open] video")
    wait_for(lambda: page.run("return arguments[0].readyState >= 2", video), what="video")
    assert page.text("dialog .bar .name") == ODD and page.driver.title == "a dog - Video search"


def test_what_cannot_be_played_is_told(page: Browser, site: Site) -> None:
    page.search("a dog")
    assert card(page, "gone.mp4", ".gone") and not card(page, "gone.mp4", "[data-play]")
    page.run("arguments[0].click()", card(page, UNPLAYABLE, "[data-play]"))
    assert "cannot play the format" in page.text("dialog .notice")
    assert page.wait("dialog .notice a").get_attribute("href") == f"{site.address}/video/{UNPLAYABLE}"
    page.press("ESCAPE")
    (site.videos / "grey.mp4").rename(site.videos / "grey.hidden")  # after the search
    try:
        page.run("arguments[0].click()", card(page, "grey.mp4", "[data-play]"))
        wait_for(lambda: "missing now" in page.text("dialog .notice"), what="notice")
    finally:
        (site.videos / "grey.hidden").rename(site.videos / "grey.mp4")


def test_pictures_and_clips_are_queries(page: Browser, site: Site, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((48, 64, 3), (220, 40, 20), np.uint8))
    page.upload(tmp_path / "blue.png")
    wait_for(lambda: page.text(".heading h2") == "blue.png", what="answer to the picture")
    assert page.text(".file .chosen .name") == "blue.png"
    page.wait(".file .remove").click()
    page.wait(".stale-results")
    coloured(tmp_path / "clip.mp4", COLOURS["green"], frames=100)
    page.upload(tmp_path / "clip.mp4")
    wait_for(lambda: page.text(".heading h2") == "clip.mp4", what="answer to the clip")
    assert page.text(".card:first-child .name") == "green.mp4"


def test_uploads_that_are_no_clip_get_a_line(page: Browser, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip.mp4", "w") as archive:
        archive.writestr("a.txt", "text")
    page.upload(tmp_path / "zip.mp4")
    assert page.text("#results .error").startswith("The upload zip.mp4: not a video by its contents")
    page.search("a dog")
    assert "zip.mp4" in page.text("#results .error")  # it is still there, until it is taken out


def test_empty_queries_and_other_languages_are_told(page: Browser) -> None:
    page.press("ENTER")
    assert page.text("#results .error") == "The query is empty; give a text, a picture or a clip"
    page.search("一只狗")
    assert "trained on English" in page.text("#results .remark") and len(page.all(".card")) == 8


def test_an_example_is_searched_by_a_click(page: Browser) -> None:
    words = page.text(".examples > button:nth-of-type(1)")
    page.run("arguments[0].click()", page.wait(".examples > button"))
    wait_for(lambda: page.text(".heading h2") == words, what="answer to the example")
    assert page.wait("#query input, #query textarea").get_attribute("value") == words


def shown(page: Browser) -> tuple[str, int]:
    """The heading of the results and their number."""
    return page.text(".heading h2"), len(page.all(".card"))


def test_reload_back_and_links_keep_the_search(page: Browser, site: Site, tmp_path: Path) -> None:
    page.open(f"{site.address}/?q=a+red+picture&not=snow&top=3")
    wait_for(lambda: shown(page) == ("a red picture, not snow", 3), what="the search of a link")
    assert page.wait("#query textarea").get_attribute("value") == "a red picture"
    assert page.reveal("#exclude textarea").get_attribute("value") == "snow"
    assert page.driver.title == "a red picture - Video search"
    page.wait(".card:first-child .like").click()
    wait_for(lambda: shown(page)[0].startswith("Like "), what="similar videos")
    like = shown(page)
    assert "like=" in page.driver.current_url and "q=" not in page.driver.current_url
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((48, 64, 3), (220, 40, 20), np.uint8))
    page.run("document.querySelector('#exclude textarea').value = ''")
    page.upload(tmp_path / "blue.png")
    wait_for(lambda: "blue.png" in shown(page)[0], what="answer to the picture")
    with_file = shown(page)

    page.driver.back()
    wait_for(lambda: shown(page) == like, what="similar videos again")
    page.driver.back()
    wait_for(lambda: shown(page) == ("a red picture, not snow", 3), what="the first search again")
    page.driver.forward()
    wait_for(lambda: shown(page) == like, what="similar videos")
    page.driver.forward()
    wait_for(lambda: shown(page) == with_file, what="the picture")
    page.driver.refresh()
    wait_for(lambda: page.all(".heading") and shown(page) == with_file, what="the picture after a reload")
    assert page.text(".file .chosen .name") == "blue.png"


def test_old_results_are_marked_and_new_ones_are_told(page: Browser) -> None:
    page.search("a red picture")
    wait_for(lambda: page.run("return document.querySelector('#told').textContent"), what="told results")
    told = page.run("return document.querySelector('#told').textContent")
    assert told.startswith("a red picture, 8 of 8 videos")
    assert page.run("return document.querySelector('#told').getAttribute('role')") == "status"
    assert not page.wait("#stale").is_displayed()
    page.type("a green picture")
    wait_for(lambda: page.wait("#stale").is_displayed(), what="the mark of old results")
    page.type("a red picture")
    wait_for(lambda: not page.wait("#stale").is_displayed(), what="no mark, as before")
    box = page.reveal("#top input[type=number]")
    box.clear()
    box.send_keys("2")
    box.send_keys("\t")
    wait_for(lambda: page.wait("#stale").is_displayed(), what="the mark after a setting")
    page.wait("#go").click()
    wait_for(lambda: len(page.all(".card")) == 2 and not page.wait("#stale").is_displayed(), what="two")


def test_boxes_have_names_and_show_the_focus(page: Browser) -> None:
    boxes = (page.wait("#query textarea"), page.reveal("#exclude textarea"), page.wait("#file"))
    names = [box.accessible_name for box in boxes]
    assert names == ["What the video should show", "What the video should not show", "Picture or clip"]
    outline = "return getComputedStyle(arguments[0]).outlineStyle"
    for box in boxes[:2]:
        page.run("document.activeElement.blur()")
        assert page.run(outline, box) == "none"
        page.run("arguments[0].focus()", box)
        assert page.run(outline, box) == "solid"


def test_a_long_query_does_not_fill_the_heading(page: Browser) -> None:
    page.run("document.querySelector('#query textarea').value = ''")
    page.open(page.driver.current_url + "?q=" + "dog+" * 249)
    wait_for(lambda: page.all(".heading"), what="answer")
    assert page.run("return document.querySelector('.heading').offsetHeight") < 80


@pytest.mark.parametrize("dark", [False, True])
def test_phones_need_not_scroll_sideways(page: Browser, site: Site, dark: bool) -> None:
    page.open(site.address, width=390, height=844, dark=dark)
    page.search("a dog")
    top = page.run("return document.querySelector('.cards').getBoundingClientRect().top")
    assert top < 844 / 2.5, "the form takes too much of a phone"
    page.reveal("#top input")
    wide = page.run(
        "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 390.5 "
        "&& e.offsetWidth && !e.closest('[data-testid=status-tracker]')).map(e => e.outerHTML.slice(0, 120))"
    )
    assert page.run("return document.documentElement.scrollWidth") <= 390, wide
    columns = page.run("return getComputedStyle(document.querySelector('.cards')).gridTemplateColumns")
    assert len(columns.split()) == 2
    colour = page.run("return getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")
    assert (sum(colour[:3]) < 200) == dark
    page.run("document.querySelector('[data-play]').click()")
    page.wait("dialog[open] video")
    assert page.run("return document.querySelector('dialog').getBoundingClientRect().right") <= 390


def test_a_chinese_model_is_asked_in_chinese(browser: Browser, uploads: None, tmp_path: Path) -> None:
    write_toy_bert(tmp_path / "bert", seed=0)
    chinese = {"language": "chinese", "dataset": "vatex", "pretrained_text": str(tmp_path / "bert")}
    checkpoint = write_model(tmp_path / "model", **chinese)
    retriever = Retriever.from_checkpoint(checkpoint, device="cpu")
    (tmp_path / "videos").mkdir()
    coloured(tmp_path / "videos" / "红色.mp4", COLOURS["red"])
    index_videos(retriever, tmp_path / "index", video_dir=tmp_path / "videos", engine="exact")
    with VideoIndex(tmp_path / "index") as index:
        app = create_app(index, retriever)
        mount_page(app, index, retriever)
        with serve(app) as address:
            browser.open(address)
            assert browser.run("return document.documentElement.lang") == "zh-CN"
            words = (
                browser.text("#go") + browser.text("#pick") + browser.text("#more") + browser.text(".intro")
            )
            assert not re.search("[A-Za-z]", words), words
            browser.search("一个红色的正方形")
            assert browser.text(".card .name") == "红色.mp4" and not browser.all("#results .remark")
            assert browser.text(".count").startswith("1 个视频中的 1 个,")
            browser.run("document.querySelector('[data-play]').click()")
            video = browser.wait("dialog[open] video")
            wait_for(lambda: browser.run("return arguments[0].readyState >= 2", video), what="video")
            browser.press("ESCAPE")
            browser.run("document.querySelector('.like').click()")
            wait_for(lambda: "没有其他视频" in browser.text("#results .hint"), what="hint")
    assert browser.hosts() == {"127.0.0.1"}
