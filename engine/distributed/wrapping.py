"""A model as the trainer calls it: by itself, over ranks (DDP), sharded (fully_shard), compiled."""

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
from engine.distributed.sharding import is_sharded, shard
from engine.distributed.world import World
from modules.dual_encoder import DualEncoder


def wrap(
    model: DualEncoder, world: World, *, fsdp: bool = False, compiled: bool = False, cached: bool = False
) -> nn.Module:
    """`model`, on its device, made ready for `world`: sharded and compiled in place, or inside of DDP.

    With a gradient cache (`cached`) there is no DDP: `average_gradients` does its work once a step. Raises
    `UserError` naming the flag for what cannot be.
    """
    if fsdp and compiled:
        raise UserError("--compile: does not go together with --fsdp; leave one of them out")
    if compiled:
        compile_encoders(model, world.device)
    if fsdp:
        return shard(model, world)
    if world.size == 1:
        return model
    if cached:
        _start_alike(model)
        return model
    devices = [world.device.index] if world.device.type != "cpu" else None
    return DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, **_no_buffer_sync()
    )


def compile_encoders(model: DualEncoder, device: torch.device) -> None:
    """torch.compile the encoders in place, so that the names of weights stay the published ones.

    Raises `UserError` where the machine lacks the C++ compiler that CPU code needs.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
        raise UserError(f"--compile: needs a C++ compiler on CPUs, {compiler} is not there; install one")
    for encoder in _encoders(model):
        for part in encoder.children():
            # Containers are never called; parameters that lie beside the parts stay outside.
            if not isinstance(part, nn.Embedding):
                part.compile()


def _encoders(model: DualEncoder) -> list[nn.Module]:
    names = ("visual_encoder", "text_encoder", "visual_encoder_k", "text_encoder_k")
    return [module for name, module in model.named_children() if name in names]


def _start_alike(model: nn.Module) -> None:
    """Rank 0's weights everywhere, as DDP begins."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Mean over ranks of all gradients, in place, in few messages. Sharded ones are averaged already."""
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
    # Queues and BatchNorm statistics are equal on all ranks by construction: sending them at every step
    # would cost more than the gradients do. Newer torch has another name for the switch.
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    return {name: False}
