"""--freeze: exclude an encoder, or its embeddings and first layers, from training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from common.errors import UserError
from modules.backbones.layers import layers_of, towers_of
from modules.dual_encoder import DualEncoder


def freeze(model: DualEncoder, part: str, layers: int | None = None) -> None:
    """Freeze `part` ("image", "text", "temporal"); with `layers` N only its embeddings and first N layers.

    Raises `UserError` where the model has no such part or fewer layers. Momentum encoders are still updated.
    A frozen encoder keeps its dropout while training.
    """
    encoder, towers = _parts(model, part)
    frozen: list[Any] = list(encoder)
    if layers is not None:
        fewest = min(len(blocks) for _, blocks in towers)
        if layers > fewest:
            raise UserError(f"--freeze {part}:{layers}: it has {fewest} layers")
        frozen = []
        for embeddings, blocks in towers:
            frozen += [*embeddings, *_through(encoder, blocks[:layers])]
    for item in frozen:
        for parameter in item.parameters() if isinstance(item, nn.Module) else [item]:
            parameter.requires_grad_(False)


def _parts(model: DualEncoder, part: str) -> tuple[list[nn.Module], list[tuple[list[Any], list[nn.Module]]]]:
    """All modules of `part`; for each tower in it what comes before its layers, and its layers."""
    visual: Any = model.visual_encoder
    if part == "temporal":
        if not visual.use_temp:
            raise UserError(
                "--freeze temporal: this model has no temporal transformer, which needs --use_temp"
            )
        positions, transformer = visual.frame_position_embeddings, visual.temporal_transformer
        return [positions, transformer], [([positions], layers_of(transformer))]
    assert part in ("image", "text"), part
    tower = visual.visual if part == "image" else model.text_encoder
    return [tower], towers_of(tower)


def _through(encoder: Iterable[nn.Module], layers: list[nn.Module]) -> list[nn.Parameter]:
    """The parameters of `layers` and of what lies between them, as the change of width between two stages."""
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    in_order = [parameter for module in encoder for parameter in module.parameters()]
    places = [place for place, parameter in enumerate(in_order) if parameter in inside]
    return in_order[places[0] : places[-1] + 1] if places else []


def nothing_learns(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether no parameter is trained."""
    return not any(parameter.requires_grad for parameter in parameters)
