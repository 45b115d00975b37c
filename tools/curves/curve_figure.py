"""Curves of several runs over each other: a panel for each name, a colour for each run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from common.atomic_files import atomic_open
from tools.curves.plot_fonts import fonts_for
from tools.curves.run_curves import RunCurves

# Okabe and Ito's palette for colour-blind readers, without the yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")  # the next one once all colours are used
COLUMNS = 4
TITLES = {
    "grad_norm": "gradient norm",
    "logit_scale": "logit scale",
    "queue_age": "queue age (steps)",
    "queue_filled": "queue filled (%)",
    "skipped_steps": "skipped steps",
    "unreadable_clips": "unreadable clips",
    "clips_per_second": "clips/s, all ranks",
    "clips_per_second_per_rank": "clips/s, one rank",
    "waiting": "waiting for data (%)",
    "memory_bytes": "peak memory (GiB)",
}
FACTORS = {"waiting": 100.0, "queue_filled": 100.0, "memory_bytes": 2.0**-30}
LOGARITHMIC = ("grad_norm",)
# Quantities without noise are not smoothed.
EXACT = ("logit_scale", "queue_age", "queue_filled", "memory_bytes", "skipped_steps", "unreadable_clips")
ACROSS = {"linestyle": (0, (1, 2))}  # dotted: a run that only evaluated
FROM_ZERO = ("waiting", "queue_filled", "queue_age", "memory_bytes", "clips_per_second")
AXIS_LABELS = {"step": "step", "epoch": "epochs", "hours": "hours"}


def draw_runs(
    runs: Sequence[RunCurves],
    names: Sequence[str],
    *,
    labels: Sequence[str],
    axis: str,
    smooth: int = 1,
) -> Figure:
    """A figure with a panel for each of `names` and a legend of `labels`.

    With `smooth` > 1, noisy curves are means of this many points, with the raw values behind them in a pale
    colour.
    """
    columns = min(len(names), COLUMNS)
    rows = math.ceil(len(names) / columns)
    legend_rows = math.ceil(len(runs) / columns)
    looks = [
        style if run.curves else {**style, **ACROSS}
        for run, style in zip(runs, styles(len(runs)), strict=True)
    ]
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows + 0.25 * legend_rows + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = None
    for number, name in enumerate(names):
        panel = figure.add_subplot(rows, columns, number + 1, sharex=panel)
        for run, style in zip(runs, looks, strict=True):
            _draw(panel, run, name, axis=axis, smooth=smooth, style=style)
        _style_panel(panel, name, bottom=number + columns >= len(names), axis=axis)
    handles = [Line2D([], [], linewidth=2.5, **style) for style in looks]
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    return figure


def styles(count: int) -> list[dict[str, Any]]:
    """Colour and dashes of each run; up to 28 runs look different."""
    return [
        {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        }
        for number in range(count)
    ]


def drawable_labels(labels: Sequence[str], *, vector: bool) -> tuple[list[str], str]:
    """(labels that the installed fonts can draw, the characters that they cannot draw).

    A label with such a character becomes "run N", not a row of boxes. A vector picture stores text as text
    and keeps all labels: its viewer brings the fonts.
    """
    _, missing = fonts_for(labels)
    if vector or not missing:
        return list(labels), ""
    shown = [f"run {n}" if missing & set(label) else label for n, label in enumerate(labels, start=1)]
    return shown, "".join(sorted(missing))


def save_figure(figure: Figure, path: Path) -> None:
    """Write the picture atomically, in the format of the file's suffix."""
    texts = figure.findobj(Text)
    families, _ = fonts_for(text.get_text() for text in texts if isinstance(text, Text))
    settings: dict[Any, Any] = {
        "font.family": families,
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        "axes.unicode_minus": False,
    }
    with atomic_open(path, "wb") as file, matplotlib.rc_context(settings), warnings.catch_warnings():
        # `drawable_labels` has reported these characters; in an SVG they are no problem.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        for text in texts:  # existing texts ignore the settings
            text.set_fontfamily(families)
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=110)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and the `window` - 1 values before it; NaN stays NaN."""
    result = []
    for end, value in enumerate(values, start=1):
        near = [v for v in values[max(0, end - window) : end] if math.isfinite(v)]
        result.append(math.fsum(near) / len(near) if math.isfinite(value) else math.nan)
    return result


def _draw(panel: Axes, run: RunCurves, name: str, *, axis: str, smooth: int, style: dict[str, Any]) -> None:
    if name in run.evaluated:
        panel.axhline(run.evaluated[name], **{**style, **ACROSS})
    factor = FACTORS.get(name, 1.0)
    points = [(getattr(p, axis), p.value * factor) for p in run.curves.get(name, ())]
    points = [(x, y) for x, y in points if x is not None]
    if not points:
        return
    places, values = zip(*points, strict=True)
    is_metric = ": " in name  # evaluations are few, so each gets a dot
    if smooth > 1 and not is_metric and name not in EXACT and not name.startswith("lr/"):
        panel.plot(places, values, **style, alpha=0.25, linewidth=0.8)
        values = tuple(smoothed(values, smooth))
    panel.plot(places, values, **style, linewidth=1.4, marker=_marker(values, is_metric), markersize=3.5)


def _marker(values: Sequence[float], is_metric: bool) -> str:
    """A dot for metrics, and for single values between gaps, which a line would not show."""
    finite = [math.isfinite(value) for value in values]
    return "o" if is_metric or not any(a and b for a, b in pairwise(finite)) else ""


def _style_panel(panel: Axes, name: str, *, bottom: bool, axis: str) -> None:
    panel.set_title(TITLES.get(name, name.replace("lr/", "rate: ")), fontsize=10, loc="left")
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    if bottom:
        panel.set_xlabel(AXIS_LABELS[axis], fontsize=9)
    if name in LOGARITHMIC:
        panel.set_yscale("log", nonpositive="mask")
        return
    panel.ticklabel_format(axis="y", scilimits=(-3, 5))
    if name in FROM_ZERO or name.startswith("lr/"):
        panel.set_ylim(bottom=0, top=panel.dataLim.ymax * 1.08 if panel.dataLim.ymax > 0 else None)
