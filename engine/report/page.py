"""report.html: one page that needs no network and no JavaScript, for screens of any width, light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.report.figures import metric_tables
from engine.report.findings import Finding
from engine.report.parts import caption, clip, facts, number, picture, plural, row, table, text
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
CHOSEN = {  # --select_on
    "val": "the best epoch on the validation list",
    "held_out": "the best epoch on training videos held out",
    "last": "the last epoch",
    "test": "<b>the best epoch on this test list</b>, the published way, which flatters",
}
# Shown first and by name; the rest of what is no figure stands under Settings.
_TOLD = {"dataset", "split", "language", "checkpoint", "checkpoint_sha256", "epoch", "videos", "captions"}
_TOLD |= {
    "videos_of_benchmark",
    "comparable",
    "protocol",
    "settings",
    "intervals",
    "post_processing",
    "format",
}
_TOLD |= {"missing", "equal_captions", "selected_on", "selected_epoch", "findings"}


def page(report: Report, plots: Plots, thumbnails: Thumbnails) -> str:
    """The whole page as HTML."""
    title = " · ".join(str(report[key]) for key in ("dataset", "split", "language") if report.get(key))
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{name}">{shown}</a>' for name, shown in SECTIONS.items())
    bodies = (
        metric_tables(report),
        _ranks(plots),
        _length(report, plots),
        _equal(report),
        _worst_captions(report, thumbnails),
        _worst_videos(report, thumbnails),
        _confusing(report, thumbnails),
        _settings(report),
    )
    sections = "".join(
        f'<section id="{name}"><h2>{shown}</h2>{body}</section>'
        for (name, shown), body in zip(SECTIONS.items(), bodies, strict=True)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Retrieval report: {text(title)}</title><style>\n{style}</style></head><body>\n"
        f'<h1>Text-video retrieval</h1><p class="lead">{text(title)}</p>{_banner(report)}{_about(report)}'
        f"<nav>{links}</nav>{sections}\n</body></html>\n"
    )


def _banner(report: Report) -> str:
    if report.get("comparable", True):
        return ""
    used, whole = report["videos"], report["videos_of_benchmark"]
    absent = ", ".join(text(name) for name in report.get("missing", [])[:10])
    return (
        f'<p class="banner" role="note"><b>Not comparable with published figures.</b> {used:,} of {whole:,} '
        f"videos of the benchmark were evaluated; {whole - used:,} are absent from the frame store"
        f"{': ' + absent if absent else ''}.</p>"
    )


def _about(report: Report) -> str:
    settings = report.get("settings", {})
    protocol = report.get("protocol", {})
    model = [str(settings[key]) for key in ("clip_model", "pretrained_text") if settings.get(key)]
    if report.get("language") == "english":
        model = model[:1]
    parts = [
        {"use_temp": "temporal transformer", "use_frame_fea": "frame features"}[key]
        for key in ("use_temp", "use_frame_fea")
        if settings.get(key)
    ]
    checkpoint = text(report["checkpoint"]) if report.get("checkpoint") else "none: initial weights"
    digest = report.get("checkpoint_sha256")
    if digest:
        checkpoint += f"<br><code>sha256 {text(digest)}</code>"
    whole = report.get("videos_of_benchmark", report["videos"])
    entries = {
        "Model": text(", ".join(model + parts)),
        "Checkpoint": checkpoint,
        "Epoch": "" if report.get("epoch") is None else str(report["epoch"] + 1),
        "Chosen": CHOSEN.get(str(report.get("selected_on")), ""),
        "Queries": text(protocol.get("queries", "")),
        "Used": f"{plural(report['videos'], 'video')} of {whole:,}, {plural(report['captions'], 'caption')}",
        "Missing": plural(whole - report["videos"], "video") if whole > report["videos"] else "nothing",
    }
    return facts({name: value for name, value in entries.items() if value})


def _ranks(plots: Plots) -> str:
    shown = (
        (
            "recall",
            "R@K over K",
            "Share of queries whose right answer is among the first K, up to all candidates.",
        ),
        (
            "ranks",
            "rank histogram",
            "Where the right answer stands; bins double. A tie of ranks 1 and 2 is in bin 2.",
        ),
        (
            "similarity",
            "heat map of similarities",
            "A seeded sample of videos, each with its first caption. The right pairs are the diagonal: a "
            "bright column is a video that draws all captions.",
        ),
    )
    return f'<div class="plots">{"".join(_plot(plots, *entry) for entry in shown)}</div>'


def _length(report: Report, plots: Plots) -> str:
    groups, unit = report["findings"]["by_length"], report["findings"]["length_unit"]
    columns = ("R@1", "R@5", "R@10", "MedianR")
    rows = [
        row(
            [
                f"{g['from']}" if g["from"] == g["to"] else f"{g['from']} to {g['to']}",
                f"{g['captions']:,}",
                *(number(g[f"t2v/{column}"]) for column in columns),
            ]
        )
        for g in groups
    ]
    says = f"Text to video by the number of {unit}; groups of about equal size. Small groups say little."
    plot = _plot(plots, "length", "recall by caption length", says)
    return f'<div class="plots">{plot}<div>{table((unit, "captions", *columns), rows)}</div></div>'


def _plot(plots: Plots, name: str, alt: str, says: str) -> str:
    return picture(f"plot-{name}", *plots[name], alt=alt, says=says, across=name == "similarity")


def _equal(report: Report) -> str:
    found = report["equal_captions"]
    if not found["texts"]:
        return "<p>No caption stands under more than one of these videos.</p>"
    language = report.get("language", "")
    rows = [
        row(
            [caption(e["caption"], language, tag="span"), f"{e['captions']:,}", f"{e['videos']:,}"],
            text_columns=(0,),
        )
        for e in found["some"]
    ]
    said = (
        f"{plural(found['texts'], 'text')} under more than one video: "
        f"{plural(found['captions'], 'caption')} of {plural(found['videos'], 'video')}. No model can tell "
        "which of them is asked for; the row “equal captions all right” of the tables takes them all."
    )
    return f"<p>{said}</p>" + table(("text", "captions", "videos"), rows)


def _worst_captions(report: Report, thumbnails: Thumbnails) -> str:
    found = report["findings"]["worst_captions"]
    if not found:
        return "<p>Every caption finds its own video first.</p>"
    said = (
        "The captions whose own video stands last, one a video. Green: the own video; beside it the first of "
        "those that stand above it, with a caption of theirs. Similarities at the right."
    )
    return f"<p>{said}</p>" + "".join(_case(case, report, thumbnails, of_caption=True) for case in found)


def _worst_videos(report: Report, thumbnails: Thumbnails) -> str:
    found = report["findings"]["worst_videos"]
    if not found:
        return "<p>Every video finds its own captions first.</p>"
    said = (
        "The videos whose captions stand last. Green: the video with its first caption; beside it the "
        "captions of other videos that won, with those videos."
    )
    return f"<p>{said}</p>" + "".join(_case(case, report, thumbnails, of_caption=False) for case in found)


def _case(case: Finding, report: Report, thumbnails: Thumbnails, *, of_caption: bool) -> str:
    language = report.get("language", "")
    head = (
        caption(case["caption"], language, tag="span")
        if of_caption
        else f'<span class="caption id">{text(case["video"])}</span>'
    )
    candidates = report["videos"]
    rank = f"{case['rank']:,.1f}".removesuffix(".0")
    equal = case.get("equal_videos", 0)
    note = f'<p class="note">The same text stands under {plural(equal, "other video")}.</p>' if equal else ""
    clips = [
        clip(
            case["video"],
            thumbnails.of(case["video"]),
            words="own video" if of_caption else case["caption"],
            language="english" if of_caption else language,
            aside=number(case["score"]),
            own=True,
        )
    ]
    clips += [
        clip(
            won["video"],
            thumbnails.of(won["video"]),
            words=won["caption"],
            language=language,
            aside=number(won["score"]),
        )
        for won in case["won"]
    ]
    return (
        f'<article class="case"><header>{head}<span class="rank">rank {rank} of {candidates:,}</span>'
        f'</header>{note}<div class="clips">{"".join(clips)}</div></article>'
    )


def _confusing(report: Report, thumbnails: Thumbnails) -> str:
    found, summary = report["findings"]["confusing_videos"], report["findings"]["hubs"]
    if not found:
        return "<p>No video stands first for a caption of another.</p>"
    language = report.get("language", "")
    share = 100 * summary["share_of_the_tenth_that_takes_most"]
    said = (
        f"{plural(summary['wrong_first'], 'caption')} put a wrong video first. "
        f"{plural(summary['videos_that_took_one'], 'video')} took such a place; the tenth of the videos that "
        f"takes most has {share:.0f}% of them. Beside each its number of "
        "them, below it some of the captions that it took."
    )
    clips = []
    for hub in found:
        took = "".join(f"<li>{caption(words, language, tag='span')}</li>" for words in hub["took"])
        shown = clip(
            hub["video"],
            thumbnails.of(hub["video"]),
            words=hub["caption"],
            language=language,
            aside=f"{hub['times']:,} ×",
        )
        clips.append(f'{shown.removesuffix("</div>")}<ul class="took">{took}</ul></div>')
    return f'<p>{said}</p><div class="clips">{"".join(clips)}</div>'


def _settings(report: Report) -> str:
    rest = {k: v for k, v in report.items() if k not in _TOLD and "/" not in k and k != "RSum"}
    settings = {**rest, **report.get("settings", {})}
    if not settings:
        return "<p>None were told.</p>"
    rows = [
        row([f"<code>{text(name)}</code>", text(settings[name])], text_columns=(1,))
        for name in sorted(settings)
    ]
    inner = table(("name", "value"), rows, text_columns=(0, 1))
    return f"<details><summary>{plural(len(settings), 'setting')}</summary>{inner}</details>"
