"""What tools/search.py prints of the results of a query."""

from __future__ import annotations

from search import Hit, SearchResults
from search.results import Moment, clock

_FURTHER = 3  # moments of a long video beside the best one
_NAMES = 3  # of copies


def table(results: SearchResults) -> str:
    """The hits as lines: place, score, best moment, id and file."""
    if not results.hits:
        return "nothing found: the index is empty"
    lines = [f"{'':>3} {'score':>6}  {'best moment':>11}  video"]
    for place, hit in enumerate(results.hits, start=1):
        when = _time(hit.moment) if hit.end is None else _span(hit)
        lines.append(f"{place:>3} {hit.score:6.3f}  {when:>11}  {_shown(hit.video_id)}{_where(hit)}")
        lines += _moments(hit)
    return "\n".join(lines)


def _moments(hit: Hit) -> list[str]:
    """A line with the further moments of a long video."""
    further = [
        f"{_span(moment)} ({moment.score:.3f})"
        for moment in hit.moments[1 : 1 + _FURTHER]
        if moment.end is not None
    ]
    return [f"{'':>12}also {', '.join(further)}"] if further else []


def _span(of: Hit | Moment) -> str:
    return f"{clock(of.start or 0, tenths=False)}-{clock(of.end or 0, tenths=False)}"


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else clock(seconds, tenths=True)


def _shown(name: str) -> str:
    """A name on one line, without control characters for the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _where(hit: Hit) -> str:
    missing = "  (missing: the file was deleted or moved)" if hit.missing else ""
    more = len(hit.copies) - _NAMES
    names = [*map(_shown, hit.copies[:_NAMES]), *([f"{more:,} more"] if more > 0 else [])]
    return missing + (f"  (also {', '.join(names)})" if names else "")
