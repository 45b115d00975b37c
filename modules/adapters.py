"""`--lora`: low-rank adapters on the layers of the towers, whose own weights stay as they are.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685; with the library
peft. A linear layer W x becomes W x + B A x. A [R, in] starts from random numbers and B [out, R] from zeros,
so that the model starts as it was.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.languages import LANGUAGES
from modules.backbones.bilingual import encode_texts
from modules.backbones.layers import layers_of
from modules.backbones.text_encoder import ChineseTextEncoder
from modules.dual_encoder import DualEncoder
from modules.transformer_block import LinearSelfAttention, TransformerBlock

TOWERS = ("image", "text")
WORDS = 8  # of the text with which the layers are found
_BASE = ".base_layer."
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
State = Mapping[str, Tensor]


def add_adapters(model: DualEncoder, *, rank: int, towers: Iterable[str] = TOWERS) -> int:
    """Freeze both towers, put an adapter of `rank` on every linear layer of the layers of `towers`, and
    return the number of adapters. `model` is on the CPU.

    What is not pre-trained stays trained: temporal transformer, head, scale, the projection of a BERT. Raises
    `UserError` where peft is not installed, or where a tower has no linear layers that can be adapted.
    """
    inject = _peft()
    image, text = model.visual_encoder.visual, model.text_encoder
    assert isinstance(image, nn.Module)
    for tower in (image, text):
        _freeze(tower)
    count = 0
    for name in towers:
        tower = image if name == "image" else text
        for module in list(tower.modules()):
            if isinstance(module, TransformerBlock):
                module.call_linear_layers()
        adapted = _linear_layers(tower, _an_input(model, name))
        if not adapted:
            other = "text" if name == "image" else "image"
            raise UserError(
                f"--lora: the {name} tower has no linear layers for adapters; give --lora_on {other}"
            )
        kept = [weight for weight in tower.parameters() if weight.requires_grad]
        inject(tower, adapted, rank)
        for weight in kept:  # peft freezes all but its own
            weight.requires_grad_(True)
        count += len(adapted)
    return count


def _peft() -> Callable[[nn.Module, list[str], int], None]:
    """A function that puts adapters on the linear layers of these names in a tower."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(f"--lora: needs the package peft ({error}); pip install -U peft") from None

    def inject(tower: nn.Module, names: list[str], rank: int) -> None:
        pattern = "|".join(map(re.escape, names))
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern), tower)

    logging.getLogger("peft").setLevel(logging.ERROR)
    return inject


def _freeze(tower: nn.Module) -> None:
    """Freeze what a tower brings; the projection of a BERT to the joint space is new."""
    new = {
        weight
        for module in tower.modules()
        if isinstance(module, ChineseTextEncoder)
        for weight in module.text_proj.parameters()
    }
    for weight in tower.parameters():
        if weight not in new:
            weight.requires_grad_(False)


def _an_input(model: DualEncoder, tower: str) -> Callable[[], Any]:
    """A call of the tower with the smallest input that it takes."""
    if tower == "image":
        encoder: Any = model.visual_encoder
        return lambda: encoder.visual(torch.zeros(1, 3, encoder.image_size, encoder.image_size))
    language = torch.arange(len(LANGUAGES))  # a text in each, of which each may have an encoder
    ids = torch.ones(len(language), WORDS, dtype=torch.int64)
    return lambda: encode_texts(model.text_encoder, ids, torch.ones_like(ids), language)


@torch.no_grad()
def _linear_layers(tower: nn.Module, call: Callable[[], Any]) -> list[str]:
    """The names of the linear layers in the layers of `tower` that its forward pass calls.

    Some attention modules read the weights of a linear layer without a call: an adapter would do nothing.
    """
    inside = {module for layer in layers_of(tower) for module in layer.modules()}
    linear = {
        module: name
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear) and module in inside
    }
    called: set[nn.Module] = set()
    hooks = [layer.register_forward_pre_hook(lambda one, _: called.add(one)) for layer in linear]
    training = tower.training
    tower.eval()
    try:
        call()
    finally:
        tower.train(training)
        for hook in hooks:
            hook.remove()
    return [name for module, name in linear.items() if module in called]


@dataclass(frozen=True)
class AdapterNames:
    """The names in the state of a model with adapters, and those that a checkpoint has for them.

    `published` has the name in a checkpoint for every tensor but the adapters. `factors` are the names of A
    and B for each weight that has an adapter.
    """

    published: Mapping[str, str]
    factors: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, model: nn.Module) -> AdapterNames | None:
        """The names of `model`; None if it has no adapters."""
        names = list(model.state_dict())
        factors = {
            name.removesuffix(_A) + ".base_layer.weight": (name, name.removesuffix(_A) + _B)
            for name in names
            if name.endswith(_A)
        }
        if not factors:
            return None
        attentions = [name for name, part in model.named_modules() if isinstance(part, LinearSelfAttention)]
        adapters = {factor for pair in factors.values() for factor in pair}
        published = {name: _published(name, attentions) for name in names if name not in adapters}
        return cls(published, factors)

    @property
    def own(self) -> set[str]:
        """The tensors that a checkpoint does not hold as they are: adapters, and the weights they add to."""
        return {*self.factors, *(factor for pair in self.factors.values() for factor in pair)}

    def merge(self, state: State) -> dict[str, Tensor]:
        """The tensors of a checkpoint from a model's `state`: W + B A under the published names."""
        return {
            name: state[raw] + _product(state, self.factors[raw]) if raw in self.factors else state[raw]
            for raw, name in self.published.items()
            if raw in state
        }

    def unmerge(self, checkpoint: State, state: State) -> dict[str, Tensor]:
        """A state of the model, with the names and shapes of `state`, that computes what `checkpoint` does.

        The adapters are 0.
        """
        weights = {raw: checkpoint[name] for raw, name in self.published.items()}
        adapters = {factor for pair in self.factors.values() for factor in pair}
        return weights | {name: torch.zeros(state[name].shape) for name in adapters}


def _product(state: State, factors: tuple[str, str]) -> Tensor:
    a, b = (state[name] for name in factors)
    return b @ a


def _published(name: str, attentions: Iterable[str]) -> str:
    name = name.replace(_BASE, ".")
    for attention in attentions:
        for tensor in ("weight", "bias"):
            if name == f"{attention}.in_proj.{tensor}":
                return f"{attention}.in_proj_{tensor}"
    return name
