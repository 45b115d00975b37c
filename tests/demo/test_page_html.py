"""The HTML of the page: everything from outside is escaped, what cannot be played is not offered."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from demo.page.html import error_html, intro_html, moment_labels, results_html, script_html
from demo.page.words import WORDS
from search import Hit, SearchResults
from search.results import Moment

ENGLISH, CHINESE = WORDS["english"], WORDS["chinese"]
NAMES = [
    "<img src=x onerror=alert(1)>.mp4",
    "\"quoted\" 'name' & more.mp4",
    "holiday/50% off? #1.mp4",
    "${1+1}{{7*7}}`.mp4",
    "../../etc/passwd",
    "红色的三角形 向右移动.mp4",
    "x" * 300,
]


def hit(name: str = "a.mp4", **changes: object) -> Hit:
    values: dict[str, object] = {
        "video_id": name,
        "score": 0.5,
        "video_score": 0.3,
        "frame_score": 0.2,
        "moment": 61.25,
        "frame": 3,
        "moments": (Moment(3, 61.25, 0.4), Moment(1, None, 0.3), Moment(0, 2.5, 0.1)),
        "path": "/videos/a.mp4",
        "duration": 90.0,
        "missing": False,
    }
    return Hit(**{**values, **changes})  # type: ignore[arg-type]


class Tags(HTMLParser):
    """The tags and the texts of a page, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def first(self, attribute: str) -> dict[str, str | None]:
        return next(attributes for _, attributes in self.tags if attribute in attributes)


def card(hit: Hit, *, place: int = 1) -> Tags:
    """The last of `place` cards."""
    html = results_html(SearchResults((hit,) * place), ENGLISH, title="", videos=place)
    return Tags("<li" + html.rpartition("<li")[2])


@pytest.mark.parametrize("name", NAMES)
def test_no_name_becomes_html(name: str) -> None:
    plain, page = card(hit()), card(hit(name))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in page.tags] == [set(a) for _, a in plain.tags]
    assert name in page.texts
    assert page.first("data-similar")["data-similar"] == name
    address = str(page.first("data-play")["data-play"])
    assert unquote(address) == f"/video/{name}" and address.count("/") == 2 and "?" not in address


def test_a_card_plays_from_the_best_moment_and_knows_the_others() -> None:
    page = card(hit(), place=4)
    shot = page.first("data-play")
    assert shot["data-second"] == "61.250" and json.loads(str(shot["data-moments"])) == [
        [61.25, "1:01"],
        [2.5, "0:02"],
    ]
    assert shot["aria-label"] == "play a.mp4 from 1:01"
    assert page.first("src")["src"] == "/thumbnail/a.mp4?frame=3"
    assert {"4", "1:01", "0.500", "a.mp4"} <= set(page.texts)


@pytest.mark.parametrize(
    ("changes", "why"), [({"missing": True}, "file is missing"), ({"path": None}, "only frames")]
)
def test_what_has_no_file_is_shown_and_not_played(changes: dict[str, object], why: str) -> None:
    page = card(hit(**changes))
    assert any(text.startswith(why) for text in page.texts)
    assert not any("data-play" in attributes for _, attributes in page.tags)
    assert page.first("src")["src"] == "/thumbnail/a.mp4?frame=3" and page.first("data-similar")


def test_a_moment_that_is_not_known_plays_from_the_start() -> None:
    page = card(hit(moment=None, moments=()))
    assert page.first("data-play")["data-second"] == "0.000"
    assert "0:00" not in page.texts and page.first("aria-label")["aria-label"] == "play a.mp4"


def test_results_tell_their_number_and_remarks() -> None:
    found = SearchResults((hit(), hit("b.mp4")), ("the <b>query</b> is odd",), 0.123)
    page = Tags(results_html(found, ENGLISH, title="<i>dog</i>", videos=1200))
    assert {"<i>dog</i>", "2 of 1,200 videos, 0.12 s, trained", "The <b>query</b> is odd"} <= set(page.texts)
    assert [tag for tag, _ in page.tags].count("li") == 2


def test_nothing_found_is_said_in_words() -> None:
    nothing = SearchResults(())
    assert "The index is empty" in results_html(nothing, ENGLISH, title="dog", videos=0)
    assert "No other video" in results_html(nothing, ENGLISH, title="dog", videos=1)


def test_messages_are_escaped() -> None:
    remarks = results_html(SearchResults((), ("<script>",)), ENGLISH, title="", videos=1)
    intro = intro_html(ENGLISH, videos=1, remark="<script>")
    assert "<script" not in error_html("<script>x</script>") + remarks + intro
    assert "&lt;script&gt;" in remarks and "&lt;script&gt;" in intro
    assert 'role="alert"' in error_html("x") and 'role="status"' in remarks


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0:00"), (3.99, "0:03"), (61.25, "1:01"), (3723.5, "1:02:03"), (-0.1, "0:00"), (None, "")],
)
def test_seconds_as_players_show_them(seconds: float | None, shown: str) -> None:
    assert moment_labels(hit(moments=(Moment(0, seconds, 0.4),), duration=None)) == [shown]


@pytest.mark.parametrize(
    ("seconds", "duration", "shown"),
    [
        ((0.2, 0.64, 0.9), 60.0, ["0:00.2", "0:00.6", "0:00.9"]),  # otherwise three times "0:00"
        ((3.2, 61.9), 600.0, ["0:03", "1:01"]),
        ((0.4, 1.3), 1.6, ["0:00.4", "0:01.3"]),  # of a short video
        ((59.96, 59.0), 3600.0, ["1:00.0", "0:59.0"]),
    ],
)
def test_tenths_are_shown_where_they_tell_moments_apart(
    seconds: tuple[float, ...], duration: float, shown: list[str]
) -> None:
    moments = tuple(Moment(frame, second, 0.1) for frame, second in enumerate(seconds))
    assert moment_labels(hit(moments=moments, duration=duration)) == shown


def test_a_chinese_page_has_no_english_words() -> None:
    assert set(vars(ENGLISH)) == set(vars(CHINESE))
    for name, words in vars(ENGLISH).items():
        translated = getattr(CHINESE, name)
        assert translated != words and set(re.findall(r"{\w+}", translated)) == set(
            re.findall(r"{\w+}", words)
        )
        assert name == "lang" or not re.search("[A-Za-z]", re.sub(r"{\w+}", "", translated)), name
    found = SearchResults((hit("a.mp4"), hit("b.mp4", missing=True)), (), 0.123)
    shown = Tags(results_html(found, CHINESE, title="狗", videos=1200))
    assert {"相似", "文件缺失", "1,200 个视频中的 2 个,0.12 秒, 已训练"} <= set(shown.texts)
    assert shown.first("data-play")["aria-label"] == "从 1:01 开始播放 a.mp4"


def test_exact_copies_are_named_on_the_card() -> None:
    found = SearchResults((hit(copies=("<b>.mp4", "c.mp4")),))
    assert "also <b>.mp4, c.mp4" in Tags(results_html(found, ENGLISH, title="x", videos=3)).texts


def test_a_long_title_is_cut_and_told_in_full() -> None:
    page = Tags(results_html(SearchResults((hit(),)), ENGLISH, title="x" * 1000, videos=1))
    assert "x" * 97 + "..." in page.texts and page.first("title")["title"] == "x" * 1000


def test_words_cannot_end_the_script() -> None:
    words = dataclasses.replace(ENGLISH, busy="</script><b>")
    html = script_html("run();", words, {"top": 12})
    assert html.count("</script>") == 1 and "run();" in html and '"top": 12' in html


@pytest.mark.parametrize(
    ("language", "model", "word"),
    [
        ("english", "trained", "trained"),
        ("bilingual", "zero-shot", "zero-shot"),
        ("chinese", "zero-shot", "零样本"),
    ],
)
def test_the_heading_says_which_model_the_results_are_from(language: str, model: str, word: str) -> None:
    page = Tags(results_html(SearchResults((hit(),), model=model), WORDS[language], title="a", videos=3))
    (count,) = [text for text in page.texts if "0.00" in text]
    assert count.endswith(f", {word}")


def test_a_long_video_is_one_card_with_its_best_moments() -> None:
    moments = tuple(Moment(n, 600.0 + n, 0.5, 590.0, 614.0) for n in range(8))
    film = hit("film.mp4", moments=moments, moment=600.0, start=590.0, end=614.0, duration=3600.0)
    page = Tags(results_html(SearchResults((film,)), ENGLISH, title="x", videos=1))
    assert [tag for tag, _ in page.tags].count("li") == 1
    plays = [attributes for _, attributes in page.tags if "data-play" in attributes]
    assert [play["data-second"] for play in plays] == [f"{600 + n}.000" for n in range(5)]
    assert len(json.loads(plays[0]["data-moments"] or "")) == 8
    pictures = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    assert pictures == [f"/thumbnail/film.mp4?frame={n}" for n in (3, 1, 2, 3, 4)]
    missing = hit("film.mp4", moments=moments, moment=600.0, start=590.0, end=614.0, missing=True)
    page = Tags(results_html(SearchResults((missing,)), CHINESE, title="x", videos=1))
    assert not [attributes for _, attributes in page.tags if "data-play" in attributes]


def test_of_many_copies_a_few_are_named() -> None:
    found = SearchResults((hit(copies=tuple(f"{number}.mp4" for number in range(9999))),))
    assert (
        "also 0.mp4, 1.mp4, 2.mp4, 3.mp4, 4.mp4, +9,994"
        in Tags(results_html(found, ENGLISH, title="x", videos=3)).texts
    )
