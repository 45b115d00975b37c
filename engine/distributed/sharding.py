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
from modules.backbones.layers import layers_of

if TYPE_CHECKING:
    from modules.dual_encoder import DualEncoder

# Each part is gathered for its own forward pass and freed after it. Every parameter is in one of these parts,
# so that the momentum encoders can be updated shard by shard between two forward passes.
UNITS = (
    *("visual_encoder", "text_encoder", "visual_encoder_k", "text_encoder_k"),
    *("v_projector", "v_predictor", "v_projector_k", "cls"),
)
ENCODERS = ("visual_encoder", "text_encoder", "visual_encoder_k", "text_encoder_k")
FEW = 0.25  # of an encoder's weights
METHODS = ("encode", "encode_keys", "losses", "encode_video", "encode_text", "encode_words")


def shard(model: DualEncoder, world: World, *, precision: str = "fp32") -> nn.Module:
    """`model`, sharded in place: every layer of its encoders, then the rest of each part.

    With `precision` "bf16" the encoders' weights are gathered in bfloat16, at half the traffic and memory,
    except those of normalisation layers. Kept weights, optimiser state and the sums of gradients over the
    ranks are float32. Raises `UserError` if there is one rank only, or if torch is too old.
    """
    if world.size == 1:
        raise UserError(
            "--fsdp: shards the model over ranks, and there is only one; start several, or leave it out"
        )
    try:
        from torch.distributed.fsdp import (
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )
    except ImportError:
        raise UserError(
            f"--fsdp: torch {torch.__version__} lacks fully_shard; install torch 2.6 or newer"
        ) from None
    # The warning is about in-place changes of what a part returns. This code makes none.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    # Autocast decides the types of activations, as without sharding.
    bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, (world.size,)),
        "reshard_after_forward": True,
    }
    for name, unit in model.named_children():
        half = precision == "bf16" and name in ENCODERS
        if name in UNITS:
            norms: list[nn.Module] = []
            for module in (*layers_of(unit), unit):
                new_norms = [part for part in module.modules() if _is_norm(part) and part not in norms]
                if half and new_norms:
                    fully_shard(new_norms, **options)
                    norms += new_norms
                fully_shard(module, **options, mp_policy=bf16 if half else MixedPrecisionPolicy())
    fully_shard(model, **options)
    for method in METHODS:
        register_fsdp_forward_method(model, method)
    return model


def _is_norm(module: nn.Module) -> bool:
    """Whether this is a normalisation layer with weights, of torch or of another library."""
    return "Norm" in type(module).__name__ and any(True for weight in module.parameters(recurse=False))


def describe_sharding(model: nn.Module) -> tuple[str, list[str]]:
    """How the encoders are sharded, in one line, and a warning for each whose weights are in few layers."""
    parts, warnings = [], []
    for name, part in model.named_children():
        if name in ENCODERS:
            layers = layers_of(part)
            total = sum(weight.numel() for weight in part.parameters())
            share = sum(weight.numel() for layer in layers for weight in layer.parameters()) / total
            parts.append(f"{name} {len(layers)} layers with {share:.0%} of its {total:,} weights")
            if share < FEW:
                warnings.append(
                    f"--fsdp: {name} gathers {1 - share:.0%} of its weights at once, not by layer"
                )
    return f"--fsdp: {'; '.join(parts)}", warnings


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is this rank's shard of a larger one."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of one that may be sharded. Collective if it is."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be sharded, in the same memory."""
    local: Any = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def full_copy(tensor: Tensor, *, keep: bool) -> Tensor | None:
    """A copy on the CPU of the full tensor, or None if `keep` is False. Collective if it is sharded.

    It shares no memory with the original. No device holds more than this one full tensor.
    """
    if not is_sharded(tensor):
        return tensor.detach().to("cpu", copy=True) if keep else None
    full = full_tensor(tensor).detach()
    return full.cpu() if keep else None


def copy_full(target: Tensor, source: Tensor) -> None:
    """Copy the full tensor `source` into `target`, of which this rank may hold a shard. Not collective."""
    if not is_sharded(target):
        target.copy_(source)
        return
    sharded: Any = target
    local = sharded.to_local()
    (placement,) = sharded.placements  # one mesh dimension, the ranks
    rows = source.chunk(sharded.device_mesh.size(), dim=placement.dim)
    rank = sharded.device_mesh.get_local_rank()
    if rank < len(rows):  # a tensor with fewer rows than ranks leaves the last ones empty
        local.copy_(rows[rank])


def full_state(model: nn.Module, *, keep: bool, copy: bool = False) -> dict[str, Tensor]:
    """The state dict with published names and full tensors; empty if `keep` is False. Collective.

    Sharded tensors are gathered one by one and moved to the CPU, so that no device holds them all. Other
    tensors are the model's own, or copies on the CPU if `copy`.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = full_copy(tensor, keep=keep) if copy or is_sharded(tensor) else tensor
        if keep and full is not None:
            state[name] = full
    return state


@torch.no_grad()
def load_full_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of `full_state`: load full tensors into a model that may be sharded. Not collective."""
    for name, target in model.state_dict().items():
        copy_full(target, state[name])
