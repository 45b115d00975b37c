"""Curves of several runs: values, positions on each axis, the picture, and messages."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from tools import plot_runs
from tools.curves import plot_fonts
from tools.curves.curve_figure import draw_runs, drawable_labels, smoothed, styles
from tools.curves.run_curves import Point, read_curves

PER_EPOCH = 4


def write(path: Path, lines: Sequence[Mapping[str, Any]], *, tail: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")


def steps(epochs: int = 2, *, loss: float = 8.0, **more: float) -> list[dict[str, Any]]:
    return [
        {
            "step": s,
            "epoch": (s - 1) // PER_EPOCH,
            "loss": loss / s,
            "lr/text": 1e-4,
            "seconds": 900 * s,
            **more,
        }
        for s in range(1, epochs * PER_EPOCH + 1)
    ]


def evaluation(epoch: int | None, r1: float, *, dataset: str = "msrvtt") -> dict[str, Any]:
    figures = {"t2v/R@1": r1, "v2t/R@1": r1 + 1, "t2v/mAP": 7.0}
    return {"epoch": epoch, "dataset": dataset, "language": "english", "checkpoint": "x", **figures}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "基线" / "steps.jsonl", steps(grad_norm=1.0, waiting=0.25))
    write(tmp_path / "基线" / "metrics.jsonl", [evaluation(0, 10), evaluation(1, 20)])
    return tmp_path / "基线"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    write(tmp_path / "other" / "steps.jsonl", steps(1, loss=4.0), tail='{"step": 5, "ep')
    return tmp_path / "other"


def call(*arguments: Any) -> int:
    return plot_runs.main([str(argument) for argument in arguments])


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_picture_and_a_table(run: Path, other: Path, tmp_path: Path) -> None:
    assert call(run, other, "--out", tmp_path / "c.png", "--csv", tmp_path / "c.csv", "--smooth", 2) == 0
    height, width = image.imread(tmp_path / "c.png").shape[:2]
    assert width > 1000 and height > 500
    rows = table(tmp_path / "c.csv")
    assert {row["run"] for row in rows} == {"基线", "other"}
    losses = [float(row["value"]) for row in rows if row["run"] == "other" and row["name"] == "loss"]
    assert losses == [4.0, 2.0, 4 / 3, 1.0], "unsmoothed, without the half-written line"
    assert not list(tmp_path.glob("*.tmp"))


def test_places_on_the_three_axes(run: Path) -> None:
    curves = read_curves(run, label="a").curves
    second, seventh = curves["loss"][1], curves["loss"][6]
    assert (second.step, second.epoch, second.hours) == (2, 0.5, 0.5)
    assert (seventh.step, seventh.epoch, seventh.hours) == (7, 1.75, 1.75)
    first_epoch, _ = curves["msrvtt english: t2v/R@1"]
    assert (first_epoch.step, first_epoch.epoch, first_epoch.hours) == (4, 1, 1)
    assert first_epoch.value == 10


def test_an_epoch_that_is_not_over_has_no_length(tmp_path: Path) -> None:
    write(tmp_path / "a" / "steps.jsonl", steps(1)[:-1])
    assert [point.epoch for point in read_curves(tmp_path / "a", label="a").curves["loss"]] == [None] * 3


def test_metrics_without_steps_have_epochs_only(tmp_path: Path) -> None:
    write(tmp_path / "a" / "metrics.jsonl", [evaluation(0, 10)])
    (point,) = read_curves(tmp_path / "a", label="a").curves["msrvtt english: t2v/R@1"]
    assert (point.step, point.epoch, point.hours) == (None, 1, None)


def test_an_epoch_evaluated_again_replaces_the_first(tmp_path: Path) -> None:
    lines = [evaluation(0, 1), evaluation(1, 2), evaluation(None, 3), evaluation(0, 4, dataset="vatex")]
    write(tmp_path / "a" / "metrics.jsonl", [*lines, evaluation(0, 5)])
    read = read_curves(tmp_path / "a", label="a")
    assert [p.value for p in read.curves["msrvtt english: t2v/R@1"]] == [5]
    assert [p.value for p in read.curves["vatex english: t2v/R@1"]] == [4], "another test set, another panel"
    assert read.evaluated["msrvtt english: t2v/R@1"] == 3


def test_every_split_has_a_panel_and_test_is_the_default(tmp_path: Path) -> None:
    lines = [evaluation(0, 1), {**evaluation(0, 2), "split": "val"}, {**evaluation(1, 3), "split": "test"}]
    write(tmp_path / "a" / "metrics.jsonl", lines)
    curves = read_curves(tmp_path / "a", label="a").curves
    assert [p.value for p in curves["msrvtt english: t2v/R@1"]] == [1, 3]
    assert [p.value for p in curves["msrvtt english val: t2v/R@1"]] == [2]


def test_a_loss_that_was_not_finite_is_a_gap(tmp_path: Path) -> None:
    write(tmp_path / "a" / "steps.jsonl", [{"step": 1, "epoch": 0, "loss": None}])
    (point,) = read_curves(tmp_path / "a", label="a").curves["loss"]
    assert math.isnan(point.value)
    assert call(tmp_path / "a", "--csv", tmp_path / "c.csv", "--out", tmp_path / "c.png") == 0
    assert table(tmp_path / "c.csv")[0]["value"] == ""


def test_default_panels_in_order(run: Path) -> None:
    read = read_curves(run, label="a")
    read.curves["lr/text no decay"] = read.curves["lr/text"]
    assert plot_runs._panels([read], None) == [
        *("loss", "grad_norm", "lr/text", "waiting"),
        *("msrvtt english: t2v/R@1", "msrvtt english: v2t/R@1"),
    ]
    read.curves["skipped_steps"] = [Point(1, 0.1, 0.1, 0.0)]
    assert "skipped_steps" not in plot_runs._panels([read], None)
    read.curves["skipped_steps"].append(Point(2, 0.2, 0.2, 1.0))
    assert "skipped_steps" in plot_runs._panels([read], None)
    assert plot_runs._panels([read], ["*mAP", "loss"]) == ["loss", "msrvtt english: t2v/mAP"]


def test_what_the_figure_holds(run: Path, other: Path, tmp_path: Path) -> None:
    write(tmp_path / "zero" / "metrics.jsonl", [evaluation(None, 15)])
    runs = [read_curves(folder, label=folder.name) for folder in (run, other, tmp_path / "zero")]
    names = plot_runs._panels(runs, None)
    figure = draw_runs(runs, names, labels=["a", "b", "zero"], axis="epoch", smooth=3)
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["loss", "gradient norm"]
    loss, waiting = figure.axes[0], figure.axes[3]
    # Raw and smoothed lines of one run. The other one has no position: its first epoch is not over.
    assert len(loss.lines) == 2
    assert np.asarray(waiting.lines[-1].get_ydata()).tolist() == [25.0] * 8, "per cent"
    across = [line for line in figure.axes[4].lines if np.array_equal(line.get_ydata(), [15, 15])]
    assert len(across) == 1 and across[0].get_color() == styles(3)[2]["color"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "zero"]


def test_twenty_eight_runs_look_different() -> None:
    assert len({tuple(style.items()) for style in styles(28)}) == 28


def test_smoothing_is_a_mean_over_the_last_points() -> None:
    assert smoothed([4.0, 2.0, 6.0, 0.0], 2) == [4, 3, 4, 3]
    values = smoothed([4.0, math.nan, 6.0], 3)
    assert values[0] == 4 and math.isnan(values[1]) and values[2] == 5
    assert smoothed([1.0, 2.0], 1) == [1, 2]


def test_labels_without_a_font_become_numbers(
    run: Path,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only_base = {plot_fonts.BASE: plot_fonts.font_manager.findfont(plot_fonts.BASE)}
    monkeypatch.setattr(plot_fonts, "_installed", lambda: only_base)
    assert drawable_labels(["基线", "b"], vector=False) == (["run 1", "b"], "基线")
    assert drawable_labels(["基线", "b"], vector=True) == (["基线", "b"], "")
    assert drawable_labels(["b", "é"], vector=False) == (["b", "é"], "")
    assert call(run, other, "--out", tmp_path / "c.png", "--only", "loss") == 0
    said = capsys.readouterr().err
    assert "no installed font has 基线" in said and "run 1 is 基线" in said
    assert call(run, other, "--out", tmp_path / "c.svg", "--only", "loss") == 0
    assert "基线" in (tmp_path / "c.svg").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_a_font_that_has_the_characters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_fonts, "_installed", lambda: {"Latin": "latin", "Han": "han"})
    monkeypatch.setattr(plot_fonts, "_characters", {"latin": set("abc"), "han": set("基线")}.get)
    monkeypatch.setattr(plot_fonts.font_manager, "findfont", lambda name: "latin")
    assert plot_fonts.fonts_for(["基线 a"]) == ([plot_fonts.BASE, "Han"], set())
    assert plot_fonts.fonts_for(["한"]) == ([plot_fonts.BASE], {"한"})


def test_boxes_of_placeholder_fonts_do_not_count() -> None:
    assert not any(name.startswith("Last Resort") for name in plot_fonts._installed())


def test_names_and_folders_of_one_name(run: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "x" / "seed=1", tmp_path / "y" / "seed=1"):
        write(folder / "steps.jsonl", steps())
    folders = (tmp_path / "x" / "seed=1", tmp_path / "y" / "seed=1")
    assert call(*folders, f"mine={run}", "--csv", tmp_path / "c.csv") == 0
    labels = dict.fromkeys(row["run"] for row in table(tmp_path / "c.csv"))
    assert list(labels) == ["x/seed=1", "y/seed=1", "mine"]


def test_empty_runs_are_left_out_with_a_message(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert call(run, tmp_path / "empty", "--csv", tmp_path / "c.csv") == 0
    assert "left out" in capsys.readouterr().err


def test_a_run_with_nothing_on_the_axis_is_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "young" / "steps.jsonl", steps(1)[:2])
    assert call(run, tmp_path / "young", "--out", tmp_path / "c.svg", "--x", "epoch") == 0
    assert "young: nothing to draw over --x epoch: its first epoch is not over" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{run}"], "give --out PICTURE or --csv FILE"),
        (["{run}", "--out", "c.jpeg"], r"--out c.jpeg: must end in one of .png, .svg, .pdf"),
        (["{run}/nowhere", "--csv", "c.csv"], "no such folder"),
        (["{run}", "{run}", "--csv", "c.csv"], "given twice"),
        (["{empty}", "--csv", "c.csv"], "nothing to draw"),
        (["{broken}", "--csv", "c.csv"], "steps.jsonl line 1"),
        (["{run}", "--out", "c.png", "--only", "lost"], "--only lost: no such curve; there are"),
        (["{run}", "--csv", "{run}/nowhere/c.csv"], "nowhere/c.csv"),
        (["{run}", "--csv", "{run}/new.csv", "--out", "{run}/nowhere/c.png"], "nowhere does not exist"),
        (["{run}", "--csv", "{run}"], "is a folder, give the name of a file"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "broken" / "steps.jsonl", [], tail="rubbish\n")
    places = {"run": run, "empty": tmp_path / "empty", "broken": tmp_path / "broken"}
    assert call(*[argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("plot_runs.py: error:") and message in error
    assert not (run / "new.csv").exists(), "all flags are checked before the first file is written"


def test_a_broken_evaluation_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run / "metrics.jsonl", [evaluation(0, 1), {"epoch": 1}])
    assert call(run, "--csv", tmp_path / "c.csv") == 2
    assert "metrics.jsonl, line 2" in capsys.readouterr().err
    write(run / "metrics.jsonl", [evaluation(0, 1), evaluation(1, 1) | {"epoch": "x"}])
    assert call(run, "--csv", tmp_path / "c.csv") == 2
    assert "metrics.jsonl, line 2: epoch is 'x'" in capsys.readouterr().err
