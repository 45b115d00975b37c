"""Resuming: settings, data, random generators, optimiser, results; and the messages on faults of torch."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from common.errors import UserError
from dataloaders.examples import ExamplesBuilder
from engine.checkpoint.random_state import random_state, restore_random_state, seed_generators
from engine.checkpoint.resume import (
    MAY_DIFFER,
    NOT_EXACT,
    Position,
    Resumed,
    compare_data,
    compare_settings,
    describe_data,
    find_state,
)
from engine.checkpoint.states import PARTS, state_path, write_state
from engine.config import Config
from engine.config_checks import parse_and_check
from engine.distributed.world import World
from engine.logs.metrics_jsonl import drop_results_after, read_results
from engine.logs.run_log import RunLog
from engine.process.errors import LOST_RANK, explain
from engine.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from tests.device import DEVICE

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
    with pytest.raises(UserError, match=r"--precision fp32 \(was bf16\)"):  # as on another device
        compare_settings(config("--precision", "fp32"), saved | {"precision": "bf16"}, path=path)
    (remark,) = compare_settings(config("--compile"), saved | {"compile": "auto"}, path=path)
    assert "--compile on (was auto)" in remark
    # A state of the time when --compile was on or off.
    assert compare_settings(config("--compile", "off"), saved | {"compile": False}, path=path) == []
    assert compare_settings(config("--compile"), saved | {"compile": True}, path=path) == []
    del saved["loss"]  # saved by a version that had no such flag, and did what is its default
    assert compare_settings(config(), saved, path=path) == []
    with pytest.raises(UserError, match=r"--loss sigmoid \(was softmax\)"):
        compare_settings(config("--loss", "sigmoid"), saved, path=path)


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
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).to(DEVICE)
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
    lines = [{"epoch": 0}, {"epoch": 1}, {"epoch": 1, "selected_on": "test"}]
    # Evaluations in this folder: of one checkpoint, as older versions wrote them too, and of all.
    others = [{"epoch": None, "n": 0}, {"epoch": 5, "job": "eval"}]
    text = "".join(json.dumps(line) + "\n" for line in others + lines)
    path.write_text(text + '{"epoch": 2, "half', encoding="utf-8")
    assert drop_results_after(path, 1, ended=True) == lines
    assert path.read_text(encoding="utf-8") == text
    assert drop_results_after(path, 1, ended=False) == lines[:2]
    assert drop_results_after(path, -1, ended=False) == []
    assert read_results(path) == others
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


def test_the_generator_of_a_device_is_saved_and_restored_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Accelerator:
        state = torch.tensor([1, 2])

        def get_rng_state(self, device: torch.device) -> torch.Tensor:
            assert device == torch.device("cuda", 1)
            return self.state

        def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
            assert device == torch.device("cuda", 1)
            self.state = state

    accelerator, device = Accelerator(), torch.device("cuda", 1)
    monkeypatch.setattr(torch, "get_device_module", lambda asked: accelerator if asked == device else None)
    state = random_state(device)
    accelerator.state = torch.tensor([3, 4])
    restore_random_state({name: part for name, part in state.items() if name != "device"}, device)
    restore_random_state(state, CPU)  # saved with a device, resumed without
    assert accelerator.state.tolist() == [3, 4], "a state of a run without that device leaves it alone"
    restore_random_state(state, device)
    assert accelerator.state.tolist() == [1, 2] and "device" not in random_state(CPU)


def test_seeding_makes_all_three_generators_repeat() -> None:
    def draw() -> list[float]:
        return [float(torch.rand(1)), float(np.random.rand()), random.random()]

    drawn = []
    for seed in (7, 7, 8, 2**32 + 8):
        seed_generators(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1] and all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))
    assert drawn[3][1] == drawn[2][1], "NumPy takes 32 bits"
    assert drawn[0][1] == np.random.RandomState(7).rand() and drawn[0][2] == random.Random(7).random()
    assert drawn[0][0] == float(torch.rand(1, generator=torch.Generator().manual_seed(7)))


def full_state(settings: Config, *, epoch: int = 0, step: int = 0, ranks: int = 1) -> dict[str, Any]:
    return {
        **{name: {} for name in PARTS},
        "position": {"epoch": epoch, "step": step},
        "global_step": 10 * epoch + step,
        "config": dataclasses.asdict(settings),
        "world_size": ranks,
        "data": {"examples": 3, "sha256": "ab"},
    }


def find(folder: Path, *flags: str) -> tuple[Resumed, str]:
    """What --resume finds, and what the log says."""
    log = RunLog(folder, active=True)
    try:
        resumed = find_state(config("--output_dir", str(folder), *flags), World(0, 1, CPU), log)
    finally:
        log.close()
    return resumed, (folder / "log.txt").read_text(encoding="utf-8")


def test_without_resume_a_run_starts_from_the_beginning(tmp_path: Path) -> None:
    settings = config("--output_dir", str(tmp_path))
    write_state(full_state(settings, epoch=1, step=2), state_path(tmp_path, 12))
    resumed, said = find(tmp_path)
    assert resumed.path is None and resumed.position == Position(0, 0) and resumed.global_step == 0
    assert resumed.earlier_states(tmp_path) == [] and said == ""
    compare_data({"examples": 0, "sha256": ""}, resumed)  # nothing to compare with
    evaluation = dataclasses.replace(settings, do_train=False, do_eval=True, resume="auto")
    assert find_state(evaluation, World(0, 1, CPU), RunLog(tmp_path, active=False)).path is None


def test_auto_takes_the_newest_state_of_the_folder(tmp_path: Path) -> None:
    resumed, said = find(tmp_path, "--resume", "auto")
    assert resumed.path is None and "starts from the beginning" in said
    settings = config("--output_dir", str(tmp_path))
    for epoch, step in ((0, 4), (1, 2)):
        write_state(full_state(settings, epoch=epoch, step=step), state_path(tmp_path, 10 * epoch + step))
    resumed, said = find(tmp_path, "--resume", "auto")
    assert resumed.path == state_path(tmp_path, 12) and f"resuming from {resumed.path}" in said
    assert resumed.position == Position(1, 2) and resumed.global_step == 12 and "saved by" not in said
    assert resumed.earlier_states(tmp_path) == [state_path(tmp_path, 12), state_path(tmp_path, 4)]
    assert resumed.earlier_states(tmp_path / "elsewhere") == []
    state_path(tmp_path, 12).write_bytes(b"damaged")
    resumed, said = find(tmp_path, "--resume", "auto")
    assert resumed.path == state_path(tmp_path, 4)
    assert resumed.earlier_states(tmp_path) == [resumed.path]
    assert "training_state.12.pt" in said and "trying the one before" in said
    resumed.release()
    assert resumed.state == {}


def test_auto_does_not_start_anew_over_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.best").touch()  # no training wrote it
    assert find(tmp_path, "--resume", "auto")[0].path is None
    (tmp_path / "pytorch_model.bin.0").touch()
    with pytest.raises(UserError, match=f"^--resume auto: {tmp_path} holds checkpoints, and no "):
        find(tmp_path, "--resume", "auto")


def test_a_given_file_or_folder_is_resumed_from_elsewhere(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    old.mkdir()
    settings = config("--output_dir", str(new))
    for step in (3, 6):
        write_state(full_state(settings, step=step, ranks=4), state_path(old, step))
    resumed, said = find(new, "--resume", str(old))
    assert resumed.path == state_path(old, 6) and resumed.earlier_states(new) == []
    assert "saved by 4 ranks, resuming with 1" in said
    resumed, _ = find(new, "--resume", str(state_path(old, 3)), "--grad_checkpointing")
    assert resumed.path == state_path(old, 3) and resumed.global_step == 3
    said = (new / "log.txt").read_text(encoding="utf-8")
    assert "--grad_checkpointing True (was False)" in said
    with pytest.raises(UserError, match=r"--max_frames 6 \(was 12\)"):
        find(new, "--resume", str(old), "--max_frames", "6")
    with pytest.raises(UserError, match=f"--resume {old}/absent.pt: training state .*: no such file"):
        find(new, "--resume", f"{old}/absent.pt")
    content = full_state(settings, step=9)
    content["model"] = {"weight": torch.full((1000,), 3.0)}
    write_state(content, state_path(new, 9))
    damaged = bytearray(state_path(new, 9).read_bytes())
    damaged[damaged.index(torch.full((20,), 3.0).numpy().tobytes()) + 40] ^= 1
    state_path(new, 9).write_bytes(damaged)
    with pytest.raises(UserError, match=r"--resume .*training_state\.9\.pt: damaged in "):
        find(new, "--resume", str(state_path(new, 9)))
    for path in old.iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"^--resume {old}: no training state in this folder can be read$"):
        find(new, "--resume", str(old))


def test_a_run_resumes_on_the_same_examples_only() -> None:
    resumed = Resumed(Path("training_state.7.pt"), {"data": {"examples": 1200, "sha256": "ab"}})
    compare_data({"examples": 1200, "sha256": "ab"}, resumed)
    with pytest.raises(UserError, match=r"9 training examples, training_state\.7\.pt was made with 1,200"):
        compare_data({"examples": 9, "sha256": "ab"}, resumed)
    with pytest.raises(UserError, match=r"texts or videos differ from those of training_state\.7\.pt"):
        compare_data({"examples": 1200, "sha256": "cd"}, resumed)


def test_examples_are_counted_and_their_tags_and_videos_are_in_the_hash() -> None:
    def described(*examples: tuple[str, str, str | None]) -> dict[str, Any]:
        builder = ExamplesBuilder()
        for video_id, caption, tag in examples:
            builder.add(video_id, caption, tag=tag)
        return describe_data(builder.build())

    first = described(("v1", "a", "x"), ("v2", "b", "y"))
    assert first["examples"] == 2 and len(first["sha256"]) == 64
    others = [
        described(("v1", "a", "x"), ("v2", "b", "z")),
        described(("v1", "a", "x"), ("v3", "b", "y")),
        described(("v1", "a", "x"), ("v1", "b", "y")),
        described(("v1", "a", None), ("v2", "b", None)),
    ]
    assert len({first["sha256"], *(other["sha256"] for other in others)}) == 5
    one, other = (described(("v1", "a", "x"), ("v2", "b", "y"), (video, "c", "z")) for video in ("v1", "v2"))
    assert one["sha256"] != other["sha256"]  # the same videos and texts
