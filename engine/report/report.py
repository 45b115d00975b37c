"""OUTPUT_DIR/report: all figures, their settings, and the worst queries of the model (docs/RESULTS.md)."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import ESCAPED
from common.errors import file_errors
from dataloaders.examples import Examples
from dataloaders.frame_source import FrameSource
from engine.evaluation.equal_captions import equal_caption_groups, ranks_with_equal_captions
from engine.evaluation.metrics import summarise
from engine.evaluation.ranking import Rankings
from engine.evaluation.similarity import Tiles
from engine.report.findings import (
    DIRECTIONS,
    by_length,
    confusing_videos,
    hub_summary,
    length_of,
    rank_histogram,
    recall_curve,
    worst_captions,
    worst_videos,
)
from engine.report.page import Plots, bilingual_page, page
from engine.report.plots import (
    draw_curves,
    draw_heat_map,
    draw_histogram,
    draw_lengths,
    png,
    sample_scores,
)
from engine.report.queries import FILE as QUERIES
from engine.report.queries import write_queries
from engine.report.thumbnails import Thumbnails

FORMAT = 1
EQUAL_TEXTS = 10  # texts that several videos share, in the report


@dataclass(frozen=True)
class Part:
    """What a report needs of the captions of one language; the names are those of `write_report`."""

    result: Mapping[str, Any]
    rankings: Rankings
    examples: Examples
    tiles: Tiles


def write_report(
    folder: Path,
    *,
    result: Mapping[str, Any],
    rankings: Rankings,
    examples: Examples,
    tiles: Tiles,
    store: FrameSource | None = None,
) -> Path:
    """Write report.json, report.html, queries.jsonl and PNG plots to `folder`; returns the page's path.

    `result` is the line of metrics.jsonl with `settings` and, if videos were absent, their ids as `missing`.
    `rankings` are those of `tiles` without post-processing. The files are written to a temporary folder next
    to `folder`, which then replaces an older report. The same input gives the same bytes. Call it on one rank
    only. Raises `FileError`.
    """
    with _replacing(folder) as temporary:
        _write_files(temporary, Part(result, rankings, examples, tiles), Thumbnails(store))
    return folder / "report.html"


def write_bilingual_report(
    folder: Path, *, result: Mapping[str, Any], parts: Mapping[str, Part], store: FrameSource | None = None
) -> Path:
    """Write the figures of both languages, and a complete report of each to a folder of its name.

    `result` is the line of metrics.jsonl, with the figures of both languages; `parts` are by language. The
    rest is as in `write_report`.
    """
    report = {"format": FORMAT, **result, "reports": {name: f"{name}/report.json" for name in parts}}
    with _replacing(folder) as temporary:
        _write_texts(temporary, report, bilingual_page(report, list(parts)))
        for language, part in parts.items():
            (temporary / language).mkdir()
            _write_files(temporary / language, part, Thumbnails(store))
    return folder / "report.html"


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder, which replaces `folder` at the end."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with file_errors(folder, "the report cannot be written"):
            temporary.mkdir(parents=True)
            yield temporary
            _replace_folder(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_files(folder: Path, part: Part, thumbnails: Thumbnails) -> None:
    report, plots = make_report(part.result, part.rankings, part.examples, part.tiles)
    _write_texts(folder, report, page(report, plots, thumbnails))
    write_queries(folder / QUERIES, part.rankings, part.examples)
    for name, (light, _) in plots.items():
        (folder / f"{name}.png").write_bytes(light)


def _write_texts(folder: Path, report: Mapping[str, Any], html: str) -> None:
    """Write report.json and report.html."""
    text = json.dumps(report, ensure_ascii=False, indent=1, default=str) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8", errors=ESCAPED)
    (folder / "report.html").write_text(html, encoding="utf-8", errors=ESCAPED)


def make_report(
    result: Mapping[str, Any], rankings: Rankings, examples: Examples, tiles: Tiles
) -> tuple[dict[str, Any], Plots]:
    """(all of report.json, the plots for light and for dark pages)."""
    language = str(result.get("language", ""))
    groups = equal_caption_groups(examples)
    report = {
        "format": FORMAT,
        "videos": examples.num_videos,
        "captions": examples.num_captions,
        **result,
        "equal_captions": _equal_captions(groups, examples),
    }
    if groups:
        ranks = ranks_with_equal_captions(tiles, examples, rankings, groups)
        for direction, direction_ranks in zip(DIRECTIONS, ranks, strict=True):
            metrics = summarise(direction_ranks, direction=direction)
            report |= {f"equal_captions/{name}": value for name, value in metrics.items()}
    curves = {d: recall_curve(getattr(rankings, d), candidates=examples.num_videos) for d in DIRECTIONS}
    bins = {d: rank_histogram(getattr(rankings, d), candidates=examples.num_videos) for d in DIRECTIONS}
    report["findings"] = {
        "recall_curve": curves,
        "rank_histogram": bins,
        "length_unit": length_of(language)[0],
        "by_length": by_length(rankings, examples, language=language),
        "worst_captions": _mark_equal(worst_captions(rankings, examples), groups, examples),
        "worst_videos": worst_videos(rankings, examples),
        "hubs": hub_summary(rankings, examples),
        "confusing_videos": confusing_videos(rankings, examples),
    }
    return report, _plots(report, sample_scores(tiles, examples.video_of_caption))


def _plots(report: Mapping[str, Any], sample: np.ndarray) -> Plots:
    findings = report["findings"]
    plots = {
        "recall": draw_curves(findings["recall_curve"]),
        "ranks": draw_histogram(findings["rank_histogram"]),
        "length": draw_lengths(findings["by_length"], unit=findings["length_unit"]),
        "similarity": draw_heat_map(sample),
    }
    return {name: (png(draw, theme="light"), png(draw, theme="dark")) for name, draw in plots.items()}


def _equal_captions(groups: list[np.ndarray], examples: Examples) -> dict[str, Any]:
    """How many texts are captions of several videos, and the texts that most videos have."""
    videos = [np.unique(examples.video_of_caption[group]) for group in groups]
    most_shared = sorted(range(len(groups)), key=lambda i: -len(videos[i]))[:EQUAL_TEXTS]
    return {
        "texts": len(groups),
        "captions": sum(map(len, groups)),
        "videos": len(set(np.concatenate(videos).tolist())) if videos else 0,
        "some": [
            {
                "caption": examples.captions[int(groups[i][0])],
                "captions": len(groups[i]),
                "videos": len(videos[i]),
            }
            for i in most_shared
        ],
    }


def _mark_equal(
    cases: list[dict[str, Any]], groups: list[np.ndarray], examples: Examples
) -> list[dict[str, Any]]:
    """The worst captions, each with the number of other videos that have the same text."""
    others = {int(c): len(np.unique(examples.video_of_caption[g])) - 1 for g in groups for c in g}
    return [{**case, "equal_videos": others.get(case["caption_number"], 0)} for case in cases]


def _replace_folder(folder: Path, new: Path) -> None:
    """Two renames: between them there is no report, but there is never an incomplete one."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
