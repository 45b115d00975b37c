"""`--compile`: torch.compile on every layer of the encoders, in place.

A layer is compiled once and used by all layers of its kind: an encoder of twelve blocks takes the time of
one. Hooks of a layer, as those of sharding, stay outside of what is compiled, and so do checkpointing and
DDP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from common.errors import UserError, first_line
from engine.distributed.sharding import ENCODERS
from engine.distributed.world import World
from modules.backbones.layers import layers_of
from modules.dual_encoder import DualEncoder
from modules.grad_checkpointing import Checkpointed
from modules.pixels import PixelNormalization

BACKEND = "inductor"
# Layers of one kind share their compiled forms: those of three encoders, with and without gradient, in
# evaluation, with frozen weights, with and without masks.
MOST_FORMS = 64
Report = Callable[[str], None]


def settle_compile(choice: str, world: World, *, info: Report, warn: Report, backend: str = BACKEND) -> bool:
    """Whether to compile, for `--compile` "auto", "on" or "off". Collective.

    `auto` compiles on GPUs. A small function is compiled first: if that fails on any rank, `auto` warns and
    goes on without, and `on` raises `UserError`.
    """
    if choice == "off" or (choice == "auto" and world.device.type == "cpu"):
        return False
    problems = [problem for problem in world.gather(_problem(world.device, backend)) if problem]
    if not problems:
        info(f"--compile {choice}: the layers of the encoders are compiled when they are first used")
        return True
    if choice == "on":
        raise UserError(f"--compile: torch.compile does not work here ({problems[0]}); give --compile off")
    warn(f"--compile auto: off, because torch.compile does not work here ({problems[0]})")
    return False


def _problem(device: torch.device, backend: str) -> str | None:
    """Why torch.compile does not work on `device`; None where it does."""

    def small(values: Tensor) -> Tensor:
        return (torch.sigmoid(values) * values + 1).sum()

    values = torch.linspace(-1, 1, 8, device=device, requires_grad=True)
    try:
        (gradient,) = torch.autograd.grad(torch.compile(small, backend=backend)(values), values)
    except Exception as error:  # any: compilers are called, and libraries loaded
        return first_line(error)
    (expected,) = torch.autograd.grad(small(values), values)
    return None if torch.allclose(gradient, expected, atol=1e-5) else "its results are wrong"


def compile_layers(model: DualEncoder, *, warn: Report, backend: str = BACKEND) -> int:
    """Compile the layers of all encoders of `model`, and the normalisation of pixels; returns their number.

    Names of weights stay. A layer whose compilation fails at its first call, or at a later one, runs without,
    with one call of `warn` for its kind. Dropout draws the numbers that it draws without.
    """
    _configure()
    kinds: dict[type, _Kind] = {}
    layers: list[nn.Module] = []
    for name, encoder in model.named_children():
        if name in ENCODERS:
            layers += layers_of(encoder)
            layers += [part for part in encoder.modules() if isinstance(part, PixelNormalization)]
    for layer in layers:
        kind = kinds.setdefault(type(layer), _Kind(type(layer), warn=warn, backend=backend))
        compiled = _CompiledForward(layer, kind)
        kept = vars(layer).get("forward")
        layer.forward = Checkpointed(compiled) if isinstance(kept, Checkpointed) else compiled
    return len(layers)


def _configure() -> None:
    dynamo = torch._dynamo.config  # loaded here, which takes a second
    functorch: Any = torch._functorch.config
    limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"
    setattr(dynamo, limit, max(MOST_FORMS, getattr(dynamo, limit)))
    dynamo.optimize_ddp = False  # it splits what is compiled by DDP's buckets; layers are small enough
    if hasattr(functorch, "force_non_lazy_backward_lowering"):
        # The backward pass is compiled in the forward pass, where a failure can be answered.
        functorch.force_non_lazy_backward_lowering = True


class _Kind:
    """The layers of one class."""

    def __init__(self, layer: type, *, warn: Report, backend: str) -> None:
        self.name = layer.__name__
        self.failed = False
        self.warn = warn
        self.eager: Callable[..., Any] = layer.forward  # type: ignore[attr-defined]
        # torch's own random numbers. Else dropout in the two passes of a gradient cache could differ.
        options: Any = {"fallback_random": True} if backend == "inductor" else None
        self.compiled = torch.compile(self.eager, backend=backend, options=options)


class _CompiledForward:
    """The forward method of a layer."""

    def __init__(self, layer: nn.Module, kind: _Kind) -> None:
        self.layer = layer
        self.kind = kind

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kind = self.kind
        if kind.failed:
            return kind.eager(self.layer, *args, **kwargs)
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.dim() > 1:
                # Only the number of sequences changes between calls. Widths and lengths differ between the
                # encoders that share this kind, and code for any width is slow.
                torch._dynamo.mark_static(tensor, list(range(1, tensor.dim())))
        try:
            return kind.compiled(self.layer, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Of torch.compile, of its code, or of the layer: then it is raised here again. Checkpointing ends
            # a layer early, by an exception of another type.
            result = kind.eager(self.layer, *args, **kwargs)
            kind.failed = True
            kind.warn(f"--compile: {kind.name} could not be compiled and runs without ({first_line(error)})")
            return result
