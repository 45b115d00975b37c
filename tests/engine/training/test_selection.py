"""The choice of the epoch to report, and best.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.logs.metrics_jsonl import drop_results_after
from engine.training.selection import choose, write_best

RESULTS = [{"epoch": epoch, "t2v/R@1": value} for epoch, value in enumerate((10.0, 30.0, 30.0, 20.0))]


@pytest.mark.parametrize(("select_on", "epoch"), [("last", 3), ("val", 1), ("held_out", 1), ("test", 1)])
def test_the_best_epoch_or_the_last(select_on: str, epoch: int) -> None:
    assert choose(RESULTS, select_on=select_on, epochs=4) == epoch
    assert choose(RESULTS[::-1], select_on=select_on, epochs=4) == epoch  # the earliest in a tie


def test_the_last_epoch_needs_no_results() -> None:
    assert choose([], select_on="last", epochs=7) == 6


def test_best_json(tmp_path: Path) -> None:
    write_best(tmp_path, epoch=3, value=41.5, select_on="held_out")
    write_best(tmp_path, epoch=4, value=42.5, select_on="held_out")
    assert json.loads((tmp_path / "best.json").read_text(encoding="utf-8")) == {
        "epoch": 4,
        "path": str(tmp_path / "pytorch_model.bin.4"),
        "metric": "t2v/R@1",
        "value": 42.5,
        "split": "held_out",
        "selected_on": "held_out",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["best.json"]
    write_best(tmp_path, epoch=0, value=1.0, select_on="last")
    assert json.loads((tmp_path / "best.json").read_text(encoding="utf-8"))["split"] == "test"


@pytest.mark.parametrize(("ended", "epochs"), [(True, [0, 1, 0]), (False, [0, 1])])
def test_the_final_result_stays_only_if_all_epochs_are_trained(
    ended: bool, epochs: list[int], tmp_path: Path
) -> None:
    lines = [{"epoch": 0}, {"epoch": 1}, {"epoch": 0, "selected_on": "val"}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [line["epoch"] for line in drop_results_after(path, 1, ended=ended)] == epochs
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(epochs)
