"""Resuming: settings, data, random generators, optimiser, results; and the messages on faults of torch."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from common.errors import UserError
from dataloaders.examples import ExamplesBuilder
from engine.checkpoint.random_state import random_state, restore_random_state
from engine.checkpoint.resume import MAY_DIFFER, NOT_EXACT, compare_settings, describe_data
from engine.config import Config
from engine.config_checks import parse_and_check
from engine.logs.metrics_jsonl import drop_results_after
from engine.process.errors import LOST_RANK, explain
from engine.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state

CPU = torch.device("cpu")
ARGV = ["--do_train", "--output_dir", "out", "--dataset", "msrvtt", "--language", "english"]


def config(*flags: str) -> Config:
    return parse_and_check([*ARGV, *flags], program="main_task_retrieval.py")[0]


def test_settings_that_may_differ_and_those_that_may_not() -> None:
    saved, path = dataclasses.asdict(config()), Path("training_state.7.pt")
    assert compare_settings(config("--num_thread_reader", "4", "--keep", "9"), saved, path=path) == []
    (remark,) = compare_settings(config("--grad_checkpointing"), saved, path=path)
    assert "--grad_checkpointing True (was False)" in remark
    with pytest.raises(UserError, match=r"training_state\.7\.pt: --max_frames 6 \(was 12\), --lr 1.0 \(was"):
        compare_settings(config("--lr", "1", "--max_frames", "6", "--keep", "9"), saved, path=path)
    del saved["lr"]  # saved by a version that had no such flag
    assert compare_settings(config("--lr", "1"), saved, path=path) == []


def test_every_setting_that_may_differ_is_a_flag() -> None:
    assert {*MAY_DIFFER, *NOT_EXACT} <= {item.name for item in dataclasses.fields(Config)}


def test_training_data_are_compared_by_their_content() -> None:
    def digest(*captions: tuple[str, str], duration: float = 3.0) -> str:
        builder = ExamplesBuilder()
        for video_id, caption in captions:
            builder.add(video_id, caption, duration=duration)
        return str(describe_data(builder.build())["sha256"])

    first = digest(("v1", "a cat"), ("v2", "a dog"))
    assert first == digest(("v1", "a cat"), ("v2", "a dog"))
    others = [
        digest(("v1", "a dog"), ("v2", "a cat")),
        digest(("v1", "a ca"), ("v2", "ta dog")),
        digest(("v1", "a cat"), ("v1", "a dog")),
        digest(("v1", "a cat"), ("v2", "a dog"), duration=4.0),
    ]
    assert len({first, *others}) == 5


def test_random_generators_are_restored(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [*torch.rand(2).tolist(), *np.random.rand(2), *np.random.randn(1), random.random()]

    draw()
    torch.save(random_state(CPU), tmp_path / "state")
    drawn = draw()
    draw()
    restore_random_state(torch.load(tmp_path / "state", weights_only=True), CPU)
    assert draw() == drawn


def test_the_optimiser_is_restored_by_name() -> None:
    def built() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        rates = {"lr": 0.1, "text_lr": 0.1, "coef_lr": 1.0, "weight_decay": 0.1}
        return model, build_optimizer(model, **rates, warmup=0.1, total_steps=10)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    model, optimizer = built()
    for _ in range(3):
        step(model, optimizer)
    again, resumed = built()
    again.load_state_dict(model.state_dict())
    load_optimizer_state(again, resumed, optimizer_state(model, optimizer))  # type: ignore[arg-type]
    for _ in range(2):
        step(model, optimizer)
        step(again, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_results_of_epochs_that_are_repeated_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"epoch": None, "n": 0}, {"epoch": 0}, {"epoch": 1}, {"epoch": 1, "selected_on": "test"}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"epoch": 2, "half', encoding="utf-8")
    assert drop_results_after(path, 1, ended=True) == lines
    assert path.read_text(encoding="utf-8") == text
    assert drop_results_after(path, 1, ended=False) == lines[:3]
    assert drop_results_after(path, -1, ended=False) == lines[:1]
    assert drop_results_after(tmp_path / "absent", 0, ended=False) == []


@pytest.mark.parametrize(
    ("error", "explanation"),
    [
        (RuntimeError("[..] Connection closed by peer [127.0.0.1]:1"), LOST_RANK),
        (dist.DistBackendError("NCCL error"), LOST_RANK),
        (RuntimeError("[..] Timed out waiting 1800000ms for recv operation"), "did not answer in time"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried ..."), "--grad_checkpointing"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "process 12 is killed by"),
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), "1, 2 exited unexpectedly"),
    ],
)
def test_faults_of_the_environment_are_one_line(error: RuntimeError, explanation: str) -> None:
    line = explain(error)
    assert line is not None and explanation in line and "\n" not in line


def test_other_errors_are_not_explained() -> None:
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_loader_process_that_ends_while_it_sends_is_explained(error: Exception) -> None:
    line = explain(error)
    assert line is not None and line.startswith("stopped: loader process") and "\n" not in line
