"""HTML of what a search answers with: cards of videos, remarks, errors.

Everything that comes from outside (ids, remarks, messages) is escaped here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from search import Hit, SearchResults

NOTHING_YET = '<p class="hint">Search by words, a picture or a clip. Results play from their best moment.</p>'
EMPTY_INDEX = '<p class="hint">The index is empty: <code>tools/search.py index</code> fills it.</p>'


def results_html(found: SearchResults, *, title: str, videos: int) -> str:
    """The heading `title` (a text), remarks and one card a hit; `videos` is how many there are in all."""
    if not found.hits:
        return remarks_html(found.remarks) + (
            EMPTY_INDEX if not videos else '<p class="hint">No other video in the index.</p>'
        )
    count = f"{len(found)} of {videos:,} video{'s' if videos != 1 else ''}, {found.seconds:.2f} s"
    cards = "".join(card_html(hit, place) for place, hit in enumerate(found.hits, start=1))
    return (
        f'<div class="heading"><h2>{escape(title)}</h2><span class="count">{count}</span></div>'
        f'{remarks_html(found.remarks)}<ol class="cards" aria-label="results">{cards}</ol>'
    )


def card_html(hit: Hit, place: int) -> str:
    """One video: its best frame, which plays it from there, place, id, score, moment, and what is like it."""
    playable = hit.path is not None and not hit.missing
    moment = clock(hit.moment)
    name = escape(hit.video_id)
    picture = (
        f'<img src="{_address("thumbnail", hit.video_id)}?frame={hit.frame}" alt="" loading="lazy">'
        f'<span class="place">{place}</span>'
    )
    picture += f'<span class="moment">{moment}</span>' if moment else ""
    if playable:
        label = f"play {hit.video_id}" + (f" from {moment}" if moment else "")
        moments = json.dumps([m.seconds for m in hit.moments if m.seconds is not None])
        picture = (
            f'<button type="button" class="shot" data-play="{_address("video", hit.video_id)}" '
            f'data-name="{name}" data-second="{hit.moment or 0:.3f}" data-moments="{escape(moments)}" '
            f'aria-label="{escape(label)}">{picture}<span class="go" aria-hidden="true"></span></button>'
        )
    else:
        why = "file is missing" if hit.missing else "only frames are stored"
        picture = f'<div class="shot">{picture}<span class="gone">{why}</span></div>'
    return (
        f'<li class="card{"" if playable else " absent"}">{picture}'
        f'<div class="name" title="{name}">{name}</div>'
        f'<div class="facts"><span class="score" title="score">{hit.score:.3f}</span>'
        f'<button type="button" class="like" data-similar="{name}" '
        f'aria-label="{escape("videos like " + hit.video_id)}">similar</button></div></li>'
    )


def remarks_html(remarks: Iterable[str]) -> str:
    """What the user should know about the query."""
    return "".join(f'<p class="remark" role="status">{escape(_sentence(remark))}</p>' for remark in remarks)


def error_html(message: str) -> str:
    """One line that says what is wrong."""
    return f'<p class="error" role="alert">{escape(_sentence(message))}</p>'


def clock(seconds: float | None) -> str:
    """Seconds as players show them, "1:02:03"; "" where they are not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _address(route: str, video_id: str) -> str:
    """The path of a route of a video, fit for an attribute: `quote` leaves no character that HTML knows."""
    return f"/{route}/{quote(video_id, safe='')}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
