"""--grad_checkpointing: the same gradients, and fewer activations are kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from modules.backbones.layers import layers_of
from modules.backbones.text_encoder import ChineseTextEncoder
from modules.dual_encoder import DualEncoder
from modules.grad_checkpointing import Checkpointed, checkpoint_activations
from modules.retrieval_model import RetrievalModel
from tests.device import DEVICE
from tests.modules import tiny


def chinese(folder: Path) -> DualEncoder:
    """A model with a small BERT that has dropout."""
    from transformers import BertConfig

    small: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertConfig(vocab_size=99, max_position_embeddings=16, **small).save_pretrained(folder)
    visual, _ = tiny.encoders()
    text = ChineseTextEncoder(folder, embed_dim=visual.embed_dim, pretrained=False)
    return RetrievalModel(visual, text, use_frame_fea=True, logit_scale=5.0).train().to(DEVICE)


MODELS: dict[str, Callable[[Path], DualEncoder]] = {
    "fine-tuning": lambda folder: tiny.retrieval_model(),
    "pre-training": lambda folder: tiny.pretrain_model(),
    "Chinese": chinese,
    "bilingual": lambda folder: tiny.bilingual_model(),
}


def kept_bytes_and_gradients(model: nn.Module, batch: dict[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
    """Bytes that the graph keeps after the forward pass, without the weights; gradients."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # else the address of a freed tensor could be used again and be counted once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(batch)["loss"]
    size = sum(kept.values())  # before the backward pass, which recomputes activations
    loss.backward()
    return size, tiny.gradients(model)


@pytest.mark.parametrize("kind", MODELS)
def test_same_gradients_and_less_is_kept(kind: str, tmp_path: Path) -> None:
    plain = MODELS[kind](tmp_path).double()
    saving = MODELS[kind](tmp_path).double()
    saving.load_state_dict(plain.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # transformers' sign that a name is deprecated
        checkpoint_activations(saving)
    batch = tiny.batch(4, padded=True, tags=kind == "pre-training") | {"language": torch.tensor([0, 1, 1, 0])}
    size, expected = kept_bytes_and_gradients(plain, batch)
    smaller, gradients = kept_bytes_and_gradients(saving, batch)
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    assert smaller < 0.7 * size


def test_every_layer_of_the_encoders_is_checkpointed() -> None:
    model = tiny.pretrain_model()
    checkpoint_activations(model)
    for encoder in (model.visual_encoder, model.text_encoder):
        assert all(isinstance(vars(layer)["forward"], Checkpointed) for layer in layers_of(encoder))
    assert layers_of(model.visual_encoder)[-1] is model.visual_encoder.temporal_transformer.resblocks[-1]  # type: ignore[union-attr,index]


@pytest.mark.parametrize("kind", ["fine-tuning", "Chinese"])
def test_every_transformer_recomputes_and_is_not_reentrant(kind: str, tmp_path: Path) -> None:
    """DistributedDataParallel refuses reentrant checkpointing in two passes, and so does `autograd.grad`."""
    model: Any = MODELS[kind](tmp_path)
    checkpoint_activations(model)
    trained = [parameter for parameter in model.text_encoder.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(model(tiny.batch(2))["loss"], trained, allow_unused=True)
    assert sum(gradient is not None for gradient in gradients) > 10


def test_an_image_tower_without_layers_is_refused() -> None:
    model = tiny.retrieval_model()
    model.visual_encoder.visual = nn.Linear(3, 3)
    with pytest.raises(UserError, match="--grad_checkpointing: an image tower of type Linear"):
        checkpoint_activations(model)
