"""Flags of memory and scale through the whole program: the same run, and one line where they cannot work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import Toy
from tests.e2e.test_command_lines import launch
from tests.processes import torchrun

PRETRAIN = "main_pretrain.py --do_pretrain --dataset vatex --language english --use_temp --use_frame_fea"
TRAIN = ("--dataset", "msrvtt", "--language", "english", "--use_temp", "--use_frame_fea")


def steps(output: Path) -> list[dict[str, Any]]:
    lines = (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def newest_state(output: Path) -> dict[str, Any]:
    return load(max(output.glob("training_state.*.pt"), key=lambda p: int(p.name.split(".")[1])))


def assert_same_run(ours: Path, expected: Path, *, tolerance: float) -> None:
    for one, other in zip(steps(ours), steps(expected), strict=True):
        for name in ("loss", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=tolerance), (one["step"], name)
    weights, others = load(ours / "pytorch_model.bin.0"), load(expected / "pytorch_model.bin.0")
    assert list(weights) == list(others)
    for name, value in others.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5, msg=name)
    moments, other_moments = (newest_state(path)["optimizer"] for path in (ours, expected))
    assert set(moments["exp_avg"]) == set(other_moments["exp_avg"])


def test_sharded_over_two_ranks_is_the_run_of_ddp_and_goes_on_in_one_process(
    toy: Toy, tmp_path: Path
) -> None:
    rates = ("--lr", "1e-5", "--text_lr", "1e-6")  # with higher ones, rounding grows from step to step
    for name, more in (("ddp", []), ("fsdp", ["--fsdp"])):
        launch(torchrun(), PRETRAIN, toy, tmp_path / name, *rates, *more)
    assert_same_run(tmp_path / "fsdp", tmp_path / "ddp", tolerance=1e-5)
    state = str(max((tmp_path / "fsdp").glob("training_state.*.pt"), key=lambda p: int(p.name.split(".")[1])))
    flags = ("--dataset", "vatex", "--language", "english", "--use_temp", "--use_frame_fea", *rates)
    assert toy.run("pretrain", tmp_path / "alone", *flags, "--resume", state) == 0
    assert "fsdp" in (tmp_path / "alone" / "log.txt").read_text(encoding="utf-8")


def test_cache_and_checkpointing_change_nothing(toy: Toy, tmp_path: Path) -> None:
    runs = {"plain": [], "cache": ["--grad_cache", "1"], "checkpointing": ["--grad_checkpointing"]}
    for name, more in runs.items():
        assert toy.run("train", tmp_path / name, *TRAIN, *more) == 0
    for name in ("cache", "checkpointing"):
        assert_same_run(tmp_path / name, tmp_path / "plain", tolerance=1e-4)


def test_frozen_parts_stay_as_they_were(toy: Toy, tmp_path: Path) -> None:
    freeze = ("--freeze", "image,text:0,temporal:1", "--epochs", "2")
    assert toy.run("train", tmp_path, *TRAIN, *freeze) == 0
    first, second = (load(tmp_path / f"pytorch_model.bin.{epoch}") for epoch in (0, 1))
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert not any(name.startswith("visual_encoder.visual.") for name in moved)
    assert not moved & {"text_encoder.token_embedding.weight", "text_encoder.positional_embedding"}
    assert any(".resblocks.1." in name and "temporal" in name for name in moved)
    assert not any(".resblocks.0." in name and "temporal" in name for name in moved)
    assert any(name.startswith("text_encoder.transformer.resblocks.0.") for name in moved)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--freeze", "text:2"], "--freeze text:2: it has 1 layers"),
        (["--no-use_temp", "--freeze", "temporal"], "--freeze temporal: .*--use_temp"),
        (["--freeze", "image,text,temporal"], "leaves nothing to train"),
        (["--fsdp"], "--fsdp: .*start several"),
    ],
)
def test_what_cannot_work_is_one_line(
    flags: list[str], message: str, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy.run("train", tmp_path, *TRAIN, *flags) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, last), last
