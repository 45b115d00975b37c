"""The plots of a report as PNG, one for light and one for dark pages.

No captions or ids are drawn, because the installed fonts may lack Chinese.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.evaluation.similarity import Tiles
from engine.report.findings import DIRECTIONS

Draw = Callable[[Axes], None]
PAIRS = 48  # of a caption and its video, in the heat map
_INK = {"light": "#24292f", "dark": "#d7dce2"}
_PAPER = {"light": "#ffffff", "dark": "#1b1f24"}
_COLOURS = {"t2v": "#3b78c3", "v2t": "#d98032"}  # readable on light and dark pages
_FAINT = "#8a929b"


def draw_curves(curves: dict[str, list[tuple[int, float]]]) -> Draw:
    """R@K over K, one curve a direction."""

    def draw(axes: Axes) -> None:
        for direction, points in curves.items():
            k, recall = zip(*points, strict=True)
            axes.plot(
                k, recall, color=_COLOURS[direction], label=DIRECTIONS[direction], lw=2, marker="o", ms=2.5
            )
        last = max(points[-1][0] for points in curves.values())
        chance = np.unique(np.geomspace(1, last, 60).round())
        axes.plot(chance, 100 * chance / last, color=_FAINT, lw=1, ls="--", label="chance")
        if last > 1:
            axes.set_xscale("log")
            ticks = [k * 10**power for power in range(7) for k in (1, 2, 5) if k * 10**power <= last]
            axes.set_xticks(ticks if last < 300 else ticks[::3])
            axes.minorticks_off()
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel="K", ylabel="R@K (%)", ylim=(0, 102))
        axes.legend(frameon=False, labelcolor="linecolor", loc="lower right")

    return draw


def draw_histogram(bins: dict[str, list[dict[str, Any]]]) -> Draw:
    """Percent of the queries by rank, in bins whose width doubles."""

    def draw(axes: Axes) -> None:
        labels: list[str] = []
        for number, (direction, counts) in enumerate(bins.items()):
            x = np.arange(len(counts)) + 0.4 * (number - 0.5)
            axes.bar(
                x,
                [b["percent"] for b in counts],
                0.38,
                color=_COLOURS[direction],
                label=DIRECTIONS[direction],
            )
            names = [_range_name(b["above"] + 1, b["to"]) for b in counts]
            labels = max(labels, names, key=len)
        axes.set_xticks(range(len(labels)), labels, rotation=45 if len(labels) > 8 else 0)
        axes.set(xlabel="rank of the right answer", ylabel="queries (%)")
        axes.legend(frameon=False, labelcolor="linecolor")

    return draw


def draw_lengths(groups: list[dict[str, Any]], *, unit: str) -> Draw:
    """R@1 and R@10 of captions by length."""

    def draw(axes: Axes) -> None:
        x = np.arange(len(groups))
        for shift, k, colour in ((-0.2, 1, _COLOURS["t2v"]), (0.2, 10, "#8fb4e3")):
            axes.bar(x + shift, [g[f"t2v/R@{k}"] for g in groups], 0.38, color=colour, label=f"R@{k}")
        names = [_range_name(g["from"], g["to"]) + f"\n{g['captions']:,} captions" for g in groups]
        axes.set_xticks(x, names)
        axes.set(xlabel=f"{unit} in the caption", ylabel="text to video (%)", ylim=(0, 104))
        axes.legend(frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, 1.12))

    return draw


def draw_heat_map(scores: np.ndarray) -> Draw:
    """Scores [n, n]: captions in rows, videos in columns; the right pairs are the diagonal."""

    def draw(axes: Axes) -> None:
        # Colours span the 1st to 99th percentile, so that outliers do not flatten the rest.
        low, high = np.percentile(scores, [1, 99]) if scores.size > 1 else (scores.min() - 1, scores.max())
        image = axes.imshow(scores, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
        axes.set(xlabel="videos of the sample", ylabel="their captions", xticks=[], yticks=[])
        axes.grid(False)
        assert isinstance(axes.figure, Figure)
        bar = axes.figure.colorbar(image, ax=axes, label="similarity", shrink=0.85)
        bar.outline.set_visible(False)

    return draw


@torch.inference_mode()
def sample_scores(tiles: Tiles, video_of_caption: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Scores [n, n] of up to `PAIRS` random videos, each with its first caption."""
    random = np.random.default_rng(seed)
    videos, first = np.unique(video_of_caption, return_index=True)
    chosen = np.sort(random.choice(len(videos), min(PAIRS, len(videos)), replace=False))
    captions = torch.from_numpy(first[chosen]).to(tiles.device)
    columns = []
    for start in range(0, tiles.num_videos, tiles.width):
        inside = [v - start for v in videos[chosen].tolist() if start <= v < start + tiles.width]
        if inside:
            tile = tiles.video_tile(start, min(start + tiles.width, tiles.num_videos))
            columns.append(tiles.scores(captions, tile)[:, inside])
    return torch.cat(columns, dim=1).float().cpu().numpy()


def png(draw: Draw, *, theme: str, size: tuple[float, float] = (6.4, 3.8)) -> bytes:
    """The plot as PNG; the same numbers and libraries give the same bytes."""
    ink, paper = _INK[theme], _PAPER[theme]
    style: dict[Any, Any] = {
        **{f"{part}.color": ink for part in ("text", "xtick", "ytick")},
        "axes.labelcolor": ink,
        "axes.edgecolor": _FAINT,
        "axes.facecolor": paper,
        "figure.facecolor": paper,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _FAINT,
        "grid.alpha": 0.25,
        "font.size": 11,
        "axes.labelsize": 11,
        "font.family": "DejaVu Sans",
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # drops the user's matplotlibrc
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    return buffer.getvalue()


def _range_name(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"
