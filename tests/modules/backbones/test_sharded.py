"""Backbones of several kinds sharded over two ranks, and compiled: the features of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.distributed.compiling import compile_layers
from engine.distributed.sharding import full_tensor, shard
from engine.distributed.world import World
from modules.grad_checkpointing import checkpoint_activations
from modules.retrieval_model import RetrievalModel
from tests.engine.distributed.test_world import variables
from tests.modules.backbones.architectures import (
    IMAGES,
    TEXTS,
    VOCAB,
    WORDS,
    hf_model,
    with_encoder,
    write_config,
)
from tests.modules.backbones.test_layers import model_of
from tests.processes import free_port, run_ranks

KINDS = ("SigLIP", "ResNet", "mt5", "chinese_clip")


def model_of_kind(kind: str, folder: Path) -> RetrievalModel:
    torch.manual_seed(0)
    folder = folder / kind
    folder.mkdir(exist_ok=True)
    if kind == "chinese_clip":
        hf_model(kind).config.save_pretrained(folder)
        return model_of(str(folder), weights="none").eval()
    config = (TEXTS | IMAGES)[kind] if kind in TEXTS | IMAGES else with_encoder(folder, kind)
    return model_of(write_config(folder, config)).eval()  # no dropout


def step(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch of two clips, and the gradient of the first layer's first weight."""
    draw = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, 1, 3, 32, 32), generator=draw, dtype=torch.uint8)
    ids = torch.randint(4, VOCAB, (2, WORDS), generator=draw)
    video, _ = model.encode_video(frames)
    loss = video.square().sum() + model.encode_text(ids, torch.ones_like(ids)).square().sum()
    loss.backward()
    gradient = next(p.grad for p in model.text_encoder.parameters() if p.grad is not None)
    return loss.detach(), gradient


def _compare(rank: int, port: str, folder: str) -> None:
    torch.set_num_threads(1)
    world = World.from_environment(None, environ=variables(rank, 2, port))
    for kind in KINDS:
        loss, gradient = step(model_of_kind(kind, Path(folder) / str(rank)))
        model = model_of_kind(kind, Path(folder) / str(rank))
        checkpoint_activations(model)
        shard(model, world)
        sharded_loss, sharded_gradient = step(model)
        torch.testing.assert_close(sharded_loss, loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(full_tensor(sharded_gradient), gradient, rtol=1e-3, atol=1e-5)
    world.close()


def test_sharding_changes_nothing(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    run_ranks(_compare, 2, free_port(), str(tmp_path))


def test_compiling_changes_nothing(tmp_path: Path) -> None:
    loss, gradient = step(model_of_kind("SigLIP", tmp_path))
    model = model_of_kind("SigLIP", tmp_path)
    checkpoint_activations(model)
    failed: list[str] = []
    assert compile_layers(model, warn=failed.append, backend="aot_eager") == 6
    compiled_loss, compiled_gradient = step(model)
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-3, atol=1e-5)
    assert failed == []
