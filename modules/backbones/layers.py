"""The layers of a tower, for freezing, checkpointing, sharding and compiling.

A tower names its layers and embeddings by `name_parts`; copies of it keep the names. The layers of other
modules are found by their structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

_ATTRIBUTE = "tower_parts"
_MEMBERS = ".*"


@dataclass(frozen=True)
class TowerParts:
    """Dotted names inside a tower: modules or parameters that come before its layers, and its layers.

    "blocks.*" are all members of the list `blocks`.
    """

    embeddings: tuple[str, ...]
    layers: tuple[str, ...]


def name_parts(tower: nn.Module, *, embeddings: Iterable[str], layers: Iterable[str]) -> None:
    """Note on `tower` which of its members are embeddings and layers. Names that it lacks are left out.

    Without any layer of these names, its layers are those that its structure shows. A module that is two
    towers at once has two such notes.
    """
    parts = TowerParts(
        tuple(name for name in embeddings if _member(tower, name) is not None),
        tuple(name for name in layers if _member(tower, name.removesuffix(_MEMBERS)) is not None),
    )
    setattr(tower, _ATTRIBUTE, (*_parts_of(tower), parts))


def layers_of(part: nn.Module) -> list[nn.Module]:
    """The layers of an encoder, from the first to the last.

    Those of the towers in it that have names for them; in the rest of it the members of lists of equal
    modules, such as transformer blocks.
    """
    named = {module for module in part.modules() if _parts_of(module)}
    if not named:
        return _layers_by_structure(part)
    layers: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in part.modules():
        if module in inside:
            continue
        if module in named:
            layers += [layer for _, tower_layers in towers_of(module) for layer in tower_layers]
            inside |= set(module.modules())
        elif not any(tower in named for tower in module.modules()):
            layers += _layers_by_structure(module)
            inside |= set(module.modules())
    return layers


def towers_of(tower: nn.Module) -> list[tuple[list[Any], list[nn.Module]]]:
    """For each of the towers that `tower` is, mostly one: what comes before its layers, and its layers.

    The former are modules and parameters; none if it has no names for them.
    """
    notes = _parts_of(tower)
    if not any(parts.layers for parts in notes):
        embeddings = [_member(tower, name) for parts in notes for name in parts.embeddings]
        return [(embeddings, _layers_by_structure(tower))]
    return [
        ([_member(tower, name) for name in parts.embeddings], list(_named_layers(tower, parts)))
        for parts in notes
    ]


def _parts_of(module: nn.Module) -> tuple[TowerParts, ...]:
    notes: tuple[TowerParts, ...] = getattr(module, _ATTRIBUTE, ())
    return notes


def _named_layers(tower: nn.Module, parts: TowerParts) -> Iterator[nn.Module]:
    for name in parts.layers:
        member = _member(tower, name.removesuffix(_MEMBERS))
        yield from member if name.endswith(_MEMBERS) else [member]


def _member(tower: nn.Module, name: str) -> Any:
    """The module or parameter of that dotted name; None if there is none."""
    member: Any = tower
    for part in name.split("."):
        member = getattr(member, part, None)
    return member


def _layers_by_structure(part: nn.Module) -> list[nn.Module]:
    """The members of lists of equal modules.

    Where a list's members hold such lists themselves, as the stages of a ConvNeXt, only the inner ones count.
    """
    layers = [
        layer
        for modules in part.modules()
        if isinstance(modules, nn.ModuleList | nn.Sequential) and _are_layers(list(modules.children()))
        for layer in modules.children()
    ]
    members = set(layers)
    return [layer for layer in layers if not members & set(list(layer.modules())[1:])]


def _are_layers(modules: list[nn.Module]) -> bool:
    """Whether these are modules of one kind with weights in parts of their own."""
    kinds = {type(module) for module in modules}
    return len(kinds) == 1 and all(
        any(True for child in module.children()) and any(True for weight in module.parameters())
        for module in modules
    )
