"""report.html: one page without network and JavaScript. page.html has the HTML, this file the values;
bilingual.html is the page that stands before those of two languages.

Captions and ids come from outside: autoescape is on, and control characters become a visible mark.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.report.findings import DIRECTIONS, Finding
from engine.report.thumbnails import Thumbnails

Report = Mapping[str, Any]
Plots = Mapping[str, tuple[bytes, bytes]]  # name -> PNG for light and for dark pages
SECTIONS = {
    "figures": "Figures",
    "ranks": "Ranks",
    "length": "Caption length",
    "equal": "Equal captions",
    "worst-captions": "Worst captions",
    "worst-videos": "Worst videos",
    "confusing": "Confusing videos",
    "settings": "Settings",
}
COLUMNS = ("R@1", "R@5", "R@10", "R@50", "MedianR", "MeanR", "mAP", "GeoMean")
FORMS = {
    "": "plain",
    "equal_captions": "equal captions all right",
    "dsl": "dual softmax",
    "qb_norm_static": "querybank, static",
    "qb_norm_dynamic": "querybank, dynamic",
}
SELECTED_ON = {  # --select_on
    "val": "the best epoch on the validation list",
    "held_out": "the best epoch on training videos held out",
    "last": "the last epoch",
    "test": "the best epoch on this test list",
}
LANGUAGES = {"english": "en", "chinese": "zh-CN"}
MAX_CHARACTERS = 400  # of a caption
MAX_MISSING = 10  # ids in the banner
# Entries of a report that have their own section of the page; the others are listed as settings.
_NO_SETTINGS = {
    *("dataset", "split", "language", "checkpoint", "checkpoint_sha256", "epoch", "videos", "captions"),
    *("videos_of_benchmark", "comparable", "protocol", "settings", "intervals", "post_processing", "format"),
    *("missing", "equal_captions", "selected_on", "selected_epoch", "findings", "RSum"),
}
# Control characters except tab and line feed, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Clip:
    """A video with a caption; `aside` is shown next to its id. `frames`: data URIs, or why there are none."""

    video: str
    frames: Sequence[str] | str
    caption: str
    lang: str
    aside: str
    is_own: bool = False
    misled_captions: Sequence[str] = ()  # captions of other videos that rank this one first


def page(report: Report, plots: Plots, thumbnails: Thumbnails) -> str:
    """The page as HTML."""
    findings = report["findings"]
    lang = LANGUAGES.get(report.get("language", ""), "und")
    return _template("page.html").render(
        title=" · ".join(str(report[key]) for key in ("dataset", "split", "language") if report.get(key)),
        sections=SECTIONS,
        report=report,
        lang=lang,
        comparable=report.get("comparable", True),
        missing=report.get("missing", [])[:MAX_MISSING],
        model=_model(report),
        benchmark_videos=report.get("videos_of_benchmark", report["videos"]),
        selected_on=SELECTED_ON.get(str(report.get("selected_on"))),
        columns=COLUMNS,
        directions=DIRECTIONS,
        metric_rows={direction: _metric_rows(report, direction) for direction in DIRECTIONS},
        post_processing={FORMS.get(k, k): v for k, v in (report.get("post_processing") or {}).items()},
        plots={name: [base64.b64encode(png).decode() for png in pngs] for name, pngs in plots.items()},
        findings=findings,
        worst_captions=[_worst_caption(case, thumbnails, lang) for case in findings["worst_captions"]],
        worst_videos=[_worst_video(case, thumbnails, lang) for case in findings["worst_videos"]],
        confusing_videos=[_confusing(video, thumbnails, lang) for video in findings["confusing_videos"]],
        settings=_settings(report),
    )


def bilingual_page(report: Report, languages: Sequence[str]) -> str:
    """The page with the figures of both languages as HTML, with links to the report of each."""
    rows = {
        direction: [
            *(
                _metric_row(report, f"{language}/{direction}", language.capitalize())
                for language in languages
            ),
            _metric_row(report, direction, "mean of both"),
        ]
        for direction in DIRECTIONS
    }
    return _template("bilingual.html").render(
        title=" · ".join(str(report[key]) for key in ("dataset", "split", "language") if report.get(key)),
        report=report,
        languages=languages,
        model=_model(report),
        selected_on=SELECTED_ON.get(str(report.get("selected_on"))),
        columns=COLUMNS,
        directions=DIRECTIONS,
        metric_rows=rows,
    )


def number(value: float | None, digits: int = 1) -> str:
    """A figure, or a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def plural(count: int, noun: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def shorten(caption: str) -> str:
    """At most `MAX_CHARACTERS` of a caption."""
    return caption if len(caption) <= MAX_CHARACTERS else caption[:MAX_CHARACTERS] + "…"


def _template(name: str) -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "plural": plural, "shorten": shorten}
    return environment.get_template(name)


def _safe_text(value: Any) -> Any:
    """Browsers may drop or obey control characters; lone surrogates cannot be written as UTF-8."""
    if isinstance(value, Markup):
        return value
    return _UNSAFE.sub("\ufffd", str(value))


def _model(report: Report) -> str:
    settings = report.get("settings", {})
    names = ["clip_model"] if report.get("language") == "english" else ["clip_model", "pretrained_text"]
    parts = [str(settings[name]) for name in names if settings.get(name)]
    options = {"use_temp": "temporal transformer", "use_frame_fea": "frame features"}
    return ", ".join(parts + [words for name, words in options.items() if settings.get(name)])


def _metric_rows(report: Report, direction: str) -> list[dict[str, Any]]:
    """One row for each form of the scores that the report has, the plain one first."""
    prefixes = {f"{form}/{direction}" if form else direction: title for form, title in FORMS.items()}
    rows = [_metric_row(report, p, title) for p, title in prefixes.items() if f"{p}/R@1" in report]
    if direction == "v2t" and "v2t_any/R@1" in report:
        rows.insert(1, _metric_row(report, "v2t_any", "any caption"))
    return rows


def _metric_row(report: Report, prefix: str, title: str) -> dict[str, Any]:
    names = [f"{prefix}/{column}" for column in COLUMNS]
    intervals = report.get("intervals", {})
    cells = [{"value": report.get(name), "interval": intervals.get(name)} for name in names]
    return {"title": title, "is_plain": prefix in DIRECTIONS, "cells": cells}


def _worst_caption(case: Finding, thumbnails: Thumbnails, lang: str) -> dict[str, Any]:
    """The case with its clips: its own video, then those that ranked above it."""
    return {**case, "clips": _clips(case, thumbnails, lang, caption="own video", caption_lang="en")}


def _worst_video(case: Finding, thumbnails: Thumbnails, lang: str) -> dict[str, Any]:
    """The case with its clips: the video itself, then the videos whose captions ranked above its own."""
    clips = _clips(case, thumbnails, lang, caption=case["caption"], caption_lang=lang)
    return {**case, "equal_videos": 0, "clips": clips}


def _clips(
    case: Finding, thumbnails: Thumbnails, lang: str, *, caption: str, caption_lang: str
) -> list[Clip]:
    video, score = case["video"], number(case["score"])
    own_clip = Clip(video, thumbnails.of(video), caption, caption_lang, score, is_own=True)
    won = case["won"]
    return [own_clip] + [
        Clip(w["video"], thumbnails.of(w["video"]), w["caption"], lang, number(w["score"])) for w in won
    ]


def _confusing(finding: Finding, thumbnails: Thumbnails, lang: str) -> Clip:
    video, times = finding["video"], f"{finding['times']:,} ×"
    return Clip(video, thumbnails.of(video), finding["caption"], lang, times, misled_captions=finding["took"])


def _settings(report: Report) -> dict[str, Any]:
    """The flags of the run, and all other entries of the report that are not metrics, by name."""
    others = {k: v for k, v in report.items() if k not in _NO_SETTINGS and "/" not in k}
    return dict(sorted({**others, **report.get("settings", {})}.items()))
