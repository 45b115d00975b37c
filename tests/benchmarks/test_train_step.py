"""The benchmark of a training step, with a tiny model: all its figures are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import train_step
from tests.modules import tiny

SMALL = ["--clip_model", tiny.CLIP_CONFIG, "--clips", "4", "--frames", "2", "--steps", "2", "--warmup", "1"]


@pytest.mark.parametrize("more", [[], ["--pretrain"], ["--grad_cache", "2", "--grad_checkpointing"]])
def test_figures_of_a_step(more: list[str], tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert train_step.main([*SMALL, *more, "--precision", "fp32", "bf16", "--json", str(path)]) == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]
    for row in rows:
        assert row["clips_per_second"] == pytest.approx(4e3 / row["ms_per_step"])
        assert row["flop"] > 0 and row["tflops"] > 0 and row["share_of_matrix_rate"] > 0
        parts = {key for key in row if key.startswith("ms_")} - {"ms_per_step"}
        keys = {"ms_image, keys", "ms_text, keys"} if "--pretrain" in more else set()
        own = {"ms_image", "ms_text", "ms_heads and losses", "ms_backward and clipping", "ms_optimiser"}
        assert parts == (set() if "--grad_cache" in more else own | keys)
        assert all(row[part] > 0 for part in parts)


def test_operations_do_not_depend_on_the_precision_and_grow_with_the_clips(tmp_path: Path) -> None:
    counted = []
    for clips in ("4", "8"):
        path = tmp_path / f"{clips}.json"
        train_step.main([*SMALL, "--clips", clips, "--precision", "fp32", "bf16", "--json", str(path)])
        counted += [row["flop"] for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    assert counted[0] == counted[1] and counted[2] == counted[3] == 2 * counted[0]


def test_no_clips_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_step.main([*SMALL, "--clips", "0"]) == 2
    assert "--clips, --frames and --steps must be at least 1" in capsys.readouterr().err
