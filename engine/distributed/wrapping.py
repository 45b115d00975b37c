"""Prepare a model for training: on one rank, over ranks (DDP), sharded (fully_shard), compiled."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.distributed.compiling import compile_layers
from engine.distributed.sharding import is_sharded, shard
from engine.distributed.world import World
from modules.dual_encoder import DualEncoder

_log = logging.getLogger(__name__)


def wrap(
    model: DualEncoder,
    world: World,
    *,
    fsdp: bool = False,
    compiled: bool = False,
    cached: bool = False,
    precision: str = "fp32",
    warn: Callable[[str], None] = _log.warning,
) -> nn.Module:
    """The module to train: `model` itself, sharded or compiled in place, or DDP around it.

    `model` is already on its device. `warn` gets a line for each kind of layer that cannot be compiled.
    `precision` is that of the forward pass; sharding uses it. With a gradient cache (`cached`) there is no
    DDP: `average_gradients` does its work once a step. Raises `UserError`, naming the flag, if the options or
    the machine do not allow it.
    """
    if compiled:
        compile_layers(model, warn=warn)  # before sharding, whose hooks must stay outside of it
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
