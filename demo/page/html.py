"""HTML of the page: heading, hints, results, errors. `templates/` has the HTML, this file the values.

Autoescape is on, so ids, remarks and messages from outside cannot become HTML.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from demo.page.words import Words, script_words
from search import Hit, SearchResults
from search.index_format import ZERO_SHOT
from search.results import clock

_SHORT_SECONDS = 10
_FURTHER = 4  # moments of a long video beside the best one
_NAMES = 5  # of exact copies

_TITLE_CHARACTERS = 100


@dataclass(frozen=True)
class Card:
    """What the card of one video shows. `moment` is the time of the best frame, "" where it is not known."""

    place: int
    hit: Hit
    moment: str
    moments: str  # JSON list of [seconds, text], best first
    can_play: bool
    video_url: str
    thumbnail_url: str
    further: tuple[Further, ...]
    copies: str


@dataclass(frozen=True)
class Further:
    """A further moment of a long video: its time, as text and in seconds, and its picture."""

    label: str
    second: float
    thumbnail_url: str


def results_html(results: SearchResults, words: Words, *, title: str, videos: int) -> str:
    """Heading, remarks and one card a hit; `videos` is the size of the index."""
    cards = [_card(hit, place) for place, hit in enumerate(results.hits, start=1)]
    count = (words.count_one if videos == 1 else words.count).format(
        shown=len(cards), videos=f"{videos:,}", seconds=f"{results.seconds:.2f}"
    )
    count += f", {words.zero_shot if results.model == ZERO_SHOT else words.trained}"
    shown = title if len(title) <= _TITLE_CHARACTERS else title[: _TITLE_CHARACTERS - 3] + "..."
    return _render(
        "results.html",
        words=words,
        results=results,
        cards=cards,
        title=title,
        shown_title=shown,
        count=count,
        videos=videos,
    )


def error_html(message: str) -> str:
    """One line that says what is wrong."""
    return _render("error.html", message=message)


def intro_html(words: Words, *, videos: int, remark: str) -> str:
    """The heading of the page."""
    text = words.intro_one if videos == 1 else words.intro.format(videos=f"{videos:,}")
    return _render("intro.html", words=words, text=text, remark=remark)


def hint_html(words: Words, *, videos: int) -> str:
    """The hint that is shown before the first search."""
    return _render("hint.html", words=words, videos=videos)


def file_html(words: Words) -> str:
    """The control that uploads a file."""
    return _render("file.html", words=words)


def stale_html(words: Words) -> str:
    """The remark that results belong to an older query; the script shows it."""
    return _render("stale.html", words=words)


def script_html(script: str, words: Words, defaults: dict[str, float]) -> str:
    """A script element with our own JavaScript, its words and the default settings."""
    return _render("script.html", script=script, words=script_words(words), defaults=defaults)


def moment_labels(hit: Hit) -> list[str]:
    """The times of the moments of `hit`, "" where they are not known.

    With tenths where whole seconds would make two of them equal, or the video has less than ten seconds.
    """
    seconds = [moment.seconds for moment in hit.moments]
    if hit.end is not None:  # the moments of a long video
        return ["" if second is None else clock(second, tenths=False) for second in seconds]
    known = [second for second in seconds if second is not None]
    short = hit.duration is not None and hit.duration < _SHORT_SECONDS
    tenths = short or len(set(map(int, known))) < len(known)
    return ["" if second is None else clock(second, tenths=tenths) for second in seconds]


def _card(hit: Hit, place: int) -> Card:
    name = quote(hit.video_id, safe="")
    labels = moment_labels(hit)
    return Card(
        place=place,
        hit=hit,
        moment=labels[0] if labels and hit.moment is not None else "",
        moments=json.dumps(
            [
                (moment.seconds, label)
                for moment, label in zip(hit.moments, labels, strict=True)
                if moment.seconds is not None
            ]
        ),
        can_play=hit.path is not None and not hit.missing,
        video_url=f"/video/{name}",
        thumbnail_url=f"/thumbnail/{name}?frame={hit.frame}",
        further=tuple(
            Further(label, moment.seconds, f"/thumbnail/{name}?frame={moment.frame}")
            for moment, label in list(zip(hit.moments, labels, strict=True))[1 : 1 + _FURTHER]
            if hit.end is not None and moment.seconds is not None
        ),
        copies=_names(hit.copies),
    )


def _names(names: Sequence[str]) -> str:
    """The first of `names`, and how many there are beside them."""
    more = len(names) - _NAMES
    return ", ".join([*names[:_NAMES], *([f"+{more:,}"] if more > 0 else [])])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters["sentence"] = _sentence


def _render(name: str, **values: Any) -> str:
    return _templates.get_template(name).render(values)
