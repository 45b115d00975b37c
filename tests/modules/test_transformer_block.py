"""Our block computes what open_clip's does, on the same weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU as OpenClipQuickGELU
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from modules.backbones.clip_towers import build_clip
from modules.transformer_block import SelfAttention, TransformerBlock, replace_blocks
from tests.device import DEVICE
from tests.modules import tiny

WIDTH, TOKENS = 12, 5
CAUSAL = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
PADDED = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)


def tower(**options: Any) -> Any:
    torch.manual_seed(2)
    made: Any = Transformer(WIDTH, layers=2, heads=3, **options).double().to(DEVICE)
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return made


def output_and_gradients(model: nn.Module, mask: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    tokens = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    tokens.requires_grad_()
    output = model(tokens, attn_mask=mask)
    output.square().sum().backward()
    assert tokens.grad is not None
    return output.detach(), {"tokens": tokens.grad, **tiny.gradients(model)}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("activation", [nn.GELU, OpenClipQuickGELU])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_the_same_outputs_and_gradients(causal: bool, activation: Any, scale: float | None) -> None:
    theirs = tower(act_layer=activation, ls_init_value=scale)
    ours = copy.deepcopy(theirs)
    names = set(theirs.state_dict())
    replace_blocks(ours, causal=causal)
    assert {type(block) for block in ours.resblocks} == {TransformerBlock}
    assert set(ours.state_dict()) == names and ours.get_cast_dtype() == torch.float64
    mask = CAUSAL if causal else None
    expected, expected_gradients = output_and_gradients(theirs, mask)
    output, gradients = output_and_gradients(ours, mask)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    assert set(gradients) == set(expected_gradients)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-11, msg=name)


def test_a_mask_of_keys_and_one_that_is_added() -> None:
    """The same scores are left out by True and False, and by adding 0 and minus infinity."""
    ours = tower()
    replace_blocks(ours)
    tokens = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    keys = PADDED[:, None, None, :]
    added = torch.zeros(keys.shape).masked_fill(~keys, float("-inf"))
    with torch.no_grad():
        output = ours(tokens, attn_mask=keys)
        torch.testing.assert_close(ours(tokens, attn_mask=added), output, rtol=1e-12, atol=1e-12)
        alone = ours(tokens[1:, :2])
        torch.testing.assert_close(output[1:, :2], alone, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(output, ours(tokens))


def test_quick_gelu_keeps_less_for_the_backward_pass() -> None:
    def kept(model: nn.Module) -> int:
        sizes: dict[int, int] = {}
        alive: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
            return tensor

        tokens = torch.randn(64, TOKENS, WIDTH, dtype=torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(tokens)
        return sum(sizes.values())

    theirs = tower(act_layer=OpenClipQuickGELU)
    ours = copy.deepcopy(theirs)
    replace_blocks(ours)
    assert kept(ours) < 0.85 * kept(theirs)


def test_other_attention_stays() -> None:
    custom = tower(qk_norm=True)
    before = list(custom.resblocks)
    replace_blocks(custom)
    assert list(custom.resblocks) == before
    cross = tower()
    cross.resblocks[0] = ResidualAttentionBlock(WIDTH, 3, is_cross_attention=True).double()
    replace_blocks(cross)
    assert [type(block) for block in cross.resblocks] == [ResidualAttentionBlock, TransformerBlock]


def test_the_towers_of_a_clip_have_our_blocks() -> None:
    clip: Any = build_clip(tiny.CLIP_CONFIG)
    for blocks, causal in ((clip.visual.transformer.resblocks, False), (clip.transformer.resblocks, True)):
        assert all(isinstance(block.attn, SelfAttention) and block.attn.causal == causal for block in blocks)
