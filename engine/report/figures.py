"""The metric tables of a report: plain figures with intervals, other forms of the same scores below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.report.parts import number, plural, row, table, text

COLUMNS = ("R@1", "R@5", "R@10", "R@50", "MedianR", "MeanR", "mAP", "GeoMean")
TITLES = {"t2v": "Text to video", "v2t": "Video to text"}
FORMS = {
    "": "plain",
    "equal_captions": "equal captions all right",
    "dsl": "dual softmax",
    "qb_norm_static": "querybank, static",
    "qb_norm_dynamic": "querybank, dynamic",
}


def metric_tables(report: Mapping[str, Any]) -> str:
    """Both directions, and what the rows are."""
    parts = [_direction(report, direction) for direction in TITLES]
    if "RSum" in report:
        parts.append(f"<p>RSum (R@1, R@5 and R@10 of both directions): <b>{number(report['RSum'])}</b></p>")
    return "".join(parts) + _notes(report)


def _direction(report: Mapping[str, Any], direction: str) -> str:
    rows = []
    for form, title in FORMS.items():
        prefix = f"{form}/{direction}" if form else direction
        if f"{prefix}/R@1" in report:
            rows.append(_row(report, prefix, title, kind="" if form else "plain"))
    if direction == "v2t" and "v2t_any/R@1" in report:
        rows.insert(1, _row(report, "v2t_any", "any caption", kind=""))
    shown = table(("", *COLUMNS), rows)
    return f'<h3>{TITLES[direction]}</h3><div class="figures">{shown}</div>'


def _row(report: Mapping[str, Any], prefix: str, title: str, *, kind: str) -> str:
    cells = [text(title)]
    for column in COLUMNS:
        name = f"{prefix}/{column}"
        cell = number(report.get(name))
        if name in report.get("intervals", {}):
            low, high = report["intervals"][name]
            cell += f"<small>{number(low)} to {number(high)}</small>"
        cells.append(cell)
    return row(cells, kind=kind)


def _notes(report: Mapping[str, Any]) -> str:
    notes = ["R@K and mAP in percent; ranks count from 1, ties by the expected rank."]
    if report.get("intervals"):
        notes.append(
            "Small figures: 95% bootstrap intervals over test videos, each drawn with all its captions. They "
            "speak of other test videos, not of another training seed."
        )
    if "v2t_any/R@1" in report:
        notes.append(
            "Video to text, plain: captions of a video are one set, ranked by the best of them. Any caption: "
            "all captions stand alone, and the best-placed own one counts."
        )
    if "published_t2v/MedianR" in report:
        notes.append(
            "By the published code's rule (lower of the middle pair) the median rank of captions is "
            f"{number(report['published_t2v/MedianR'])}."
        )
    equal = report.get("equal_captions", {})
    if "equal_captions/t2v/R@1" in report:
        notes.append(
            f"Equal captions all right: {plural(equal['texts'], 'text')} of "
            f"{plural(equal['videos'], 'video')} counted right under any of them."
        )
    shown = "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    processed = report.get("post_processing") or {}
    if processed:
        shown += '<p class="note">Post-processed rows stand beside the plain ones, never for them:</p>'
        shown += '<ul class="note">'
        shown += "".join(
            f"<li><b>{text(FORMS.get(name, name))}</b>: {text(sentence)}</li>"
            for name, sentence in processed.items()
        )
        shown += "</ul>"
    return shown
