"""The benchmark of an evaluation, with a tiny model and few features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import evaluate
from tests.modules import tiny


def test_figures_of_encoding_and_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evaluate.json"
    small = ["--clip_model", tiny.CLIP_CONFIG, "--clips", "5", "--frames", "2", "--scale", "0.001"]
    assert evaluate.main([*small, "--precision", "fp32", "--tile", "0", "64", "--json", str(path)]) == 0
    encoding, own, tile = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert encoding["batch"] == 5 and encoding["clips_per_second"] == pytest.approx(5 / encoding["seconds"])
    assert encoding["captions_per_second"] > 0 and encoding["tflops"] > 0
    assert (own["tile"], tile["tile"]) == (192, 64)  # 150 captions
    assert own["t2v_R1"] == tile["t2v_R1"] > 5  # chance is 1 %
    assert own["ranks_that_differ"] == tile["ranks_that_differ"] == 0
    assert "0 ranks differ with another tile" in capsys.readouterr().out


def test_nonsense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--frames", "0"]) == 2
    assert "--frames must be at least 1" in capsys.readouterr().err
