"""HTML of the page: heading, hints, results, errors. `templates/` has the HTML, this file the values.

Autoescape is on, so ids, remarks and messages from outside cannot become HTML.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from search import Hit, SearchResults


@dataclass(frozen=True)
class Card:
    """What the card of one video shows. `moment` is the time of the best frame, "" where it is not known."""

    place: int
    hit: Hit
    moment: str
    moments: str  # JSON list of seconds, best first
    can_play: bool
    video_url: str
    thumbnail_url: str


def results_html(results: SearchResults, *, title: str, videos: int) -> str:
    """Heading, remarks and one card a hit; `videos` is the size of the index."""
    cards = [_card(hit, place) for place, hit in enumerate(results.hits, start=1)]
    return _render("results.html", results=results, cards=cards, title=title, videos=videos)


def error_html(message: str) -> str:
    """One line that says what is wrong."""
    return _render("error.html", message=message)


def intro_html(*, videos: int, language: str, remark: str) -> str:
    """The heading of the page; `language` in English words."""
    return _render("intro.html", videos=videos, language=language, remark=remark)


def hint_html(*, videos: int) -> str:
    """The hint that is shown before the first search."""
    return _render("hint.html", videos=videos)


def script_html(script: str) -> str:
    """A script element with our own JavaScript."""
    return _render("script.html", script=script)


def clock(seconds: float | None) -> str:
    """Seconds as players show them, "1:02:03"; "" where they are not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _card(hit: Hit, place: int) -> Card:
    name = quote(hit.video_id, safe="")
    return Card(
        place=place,
        hit=hit,
        moment=clock(hit.moment),
        moments=json.dumps([m.seconds for m in hit.moments if m.seconds is not None]),
        can_play=hit.path is not None and not hit.missing,
        video_url=f"/video/{name}",
        thumbnail_url=f"/thumbnail/{name}?frame={hit.frame}",
    )


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
