"""Prepare a model for training: on one rank, over ranks (DDP), sharded (fully_shard), compiled."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from engine.distributed.sharding import ENCODERS, is_sharded, shard
from engine.distributed.world import World
from modules.dual_encoder import DualEncoder


def wrap(
    model: DualEncoder,
    world: World,
    *,
    fsdp: bool = False,
    compiled: bool = False,
    cached: bool = False,
    precision: str = "fp32",
) -> nn.Module:
    """The module to train: `model` itself, sharded or compiled in place, or DDP around it.

    `model` is already on its device. `precision` is that of the forward pass; sharding uses it. With a
    gradient cache (`cached`) there is no DDP: `average_gradients` does its work once a step. Raises
    `UserError`, naming the flag, if the options or the machine do not allow it.
    """
    if fsdp and compiled:
        raise UserError("--compile: cannot be combined with --fsdp; leave one of them out")
    if compiled:
        compile_encoders(model, world.device)
    if fsdp:
        return shard(model, world, precision=precision)
    if world.size == 1:
        return model
    if cached:
        _broadcast_weights(model)
        return model
    # The model is on its device. With device_ids DDP would also move the batch there, and with it the masks
    # and labels that stay on the host.
    return DistributedDataParallel(model, device_ids=None, gradient_as_bucket_view=True, **_no_buffer_sync())


def compile_encoders(model: DualEncoder, device: torch.device) -> None:
    """torch.compile the encoders in place, so that the weights keep their published names.

    Raises `UserError` if the device is a CPU and there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
        raise UserError(f"--compile: needs a C++ compiler on CPUs; {compiler} was not found, install one")
    for name, encoder in model.named_children():
        if name not in ENCODERS:
            continue
        for part in encoder.children():
            # Embeddings are skipped: that of the frame positions is never called, only its weight is read.
            if not isinstance(part, nn.Embedding):
                part.compile()


def _broadcast_weights(model: nn.Module) -> None:
    """Copy rank 0's weights to all ranks, as DDP does at its start."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Average all gradients over the ranks, in place: one message for each dtype.

    Sharded gradients are left out: fully_shard has averaged them already.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    if world.size == 1 or not gradients:
        return
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        group = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in group])
        dist.all_reduce(flat)
        flat /= world.size
        pieces = flat.split([gradient.numel() for gradient in group])
        for gradient, piece in zip(group, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


def _no_buffer_sync() -> dict[str, Any]:
    # Queues and BatchNorm statistics are equal on all ranks by construction. Sending them at every step would
    # cost more than the gradients do. Newer versions of torch have another name for this option.
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    return {name: False}
