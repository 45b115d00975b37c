"""`--fsdp`: weights, gradients and optimiser state shared out over the ranks (torch's fully_shard).

Losses and checkpoints are those of a run without it. A tensor is "whole" where it is no DTensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from common.errors import UserError
from engine.distributed.world import World

if TYPE_CHECKING:
    from modules.dual_encoder import DualEncoder

# Each is gathered for its own forward pass and let go again. Every parameter lies in one of them, so that
# key encoders can follow, shard by shard, between two forward passes.
UNITS = (
    *("visual_encoder", "text_encoder", "visual_encoder_k", "text_encoder_k"),
    *("v_projector", "v_predictor", "v_projector_k", "cls"),
)
METHODS = ("encode", "encode_keys", "losses", "encode_video", "encode_text")


def shard(model: DualEncoder, world: World) -> nn.Module:
    """`model`, sharded in place: every transformer layer, then what is left of each part.

    Raises `UserError` where the ranks have no process group: one process has nothing to share out.
    """
    if world.size == 1:
        raise UserError(
            "--fsdp: shares the model over ranks, and there is one; start several, or leave it out"
        )
    try:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    except ImportError:
        raise UserError(f"--fsdp: torch {torch.__version__} has no fully_shard, 2.6 has") from None
    # About operations in place on what a part returns: there are none.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    units: list[nn.Module] = [part for name, part in model.named_children() if name in UNITS]
    for unit in units:
        for layer in _layers(unit):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for method in METHODS:
        register_fsdp_forward_method(model, method)
    return model


def _layers(unit: nn.Module) -> list[nn.Module]:
    """The transformer layers of an encoder: the members of its lists of modules."""
    lists = [m for name, m in unit.named_modules() if name.endswith(("resblocks", "encoder.layer"))]
    return [layer for modules in lists for layer in modules.children()]


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is this rank's part of one that is shared out."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor, sharded or not. Collective where it is."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def copy_full(target: Tensor, source: Tensor) -> None:
    """Copy a whole `source` into `target`, of which this rank may hold a part."""
    if not is_sharded(target):
        target.copy_(source)
        return
    from torch.distributed.tensor import distribute_tensor

    part: Any = target
    moved = source.to(device=part.device, dtype=part.dtype)
    part.copy_(distribute_tensor(moved, part.device_mesh, part.placements))


def full_state(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The state dict under published names with whole tensors; nothing where `keep` is False. Collective.

    Sharded tensors are gathered one after another and laid on the CPU, so that no device holds them all.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = full_tensor(tensor).cpu() if is_sharded(tensor) else tensor
        if keep:
            state[name] = full
    return state


@torch.no_grad()
def load_full_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of `full_state`: every tensor of the model from its whole one. Not collective."""
    for name, target in model.state_dict().items():
        copy_full(target, state[name])
