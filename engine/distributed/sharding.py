"""`--fsdp`: weights, gradients and optimiser state are sharded over the ranks (torch's fully_shard).

Losses and checkpoints are those of a run without it. A full tensor is one that is not sharded (no DTensor).
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

# Each part is gathered for its own forward pass and freed after it. Every parameter is in one of these parts,
# so that the momentum encoders can be updated shard by shard between two forward passes.
UNITS = (
    *("visual_encoder", "text_encoder", "visual_encoder_k", "text_encoder_k"),
    *("v_projector", "v_predictor", "v_projector_k", "cls"),
)
METHODS = ("encode", "encode_keys", "losses", "encode_video", "encode_text")


def shard(model: DualEncoder, world: World) -> nn.Module:
    """`model`, sharded in place: every transformer layer, then the rest of each part.

    Raises `UserError` if there is one rank only, or if torch is too old.
    """
    if world.size == 1:
        raise UserError(
            "--fsdp: shards the model over ranks, and there is only one; start several, or leave it out"
        )
    try:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    except ImportError:
        raise UserError(
            f"--fsdp: torch {torch.__version__} lacks fully_shard; install torch 2.6 or newer"
        ) from None
    # The warning is about in-place changes of what a part returns. This code makes none.
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
    """Whether `tensor` is this rank's shard of a larger one."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of one that may be sharded. Collective if it is."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def copy_full(target: Tensor, source: Tensor) -> None:
    """Copy the full tensor `source` into `target`, which may be sharded."""
    if not is_sharded(target):
        target.copy_(source)
        return
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = target
    source = source.to(device=sharded.device, dtype=sharded.dtype)
    sharded.copy_(distribute_tensor(source, sharded.device_mesh, sharded.placements))


def full_state(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The state dict with published names and full tensors; empty if `keep` is False. Collective.

    Sharded tensors are gathered one by one and moved to the CPU, so that no device holds them all.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = full_tensor(tensor).cpu() if is_sharded(tensor) else tensor
        if keep:
            state[name] = full
    return state


@torch.no_grad()
def load_full_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of `full_state`: load full tensors into a model that may be sharded. Not collective."""
    for name, target in model.state_dict().items():
        copy_full(target, state[name])
