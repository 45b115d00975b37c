"""The pre-norm transformer block of CLIP's towers and of the temporal transformer.

Written so that a GPU runs few operations: one matrix product for queries, keys and values, whose heads are
views of it, torch's fused attention, and QuickGELU as one operation. The names of the weights are the
published ones, which are those of nn.MultiheadAttention and open_clip.

Shapes: N sequences, L tokens, D width, H heads.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUICK_GELU_SLOPE = 1.702


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), with the scale of each branch where there is one.

    The call is that of open_clip's block, so that its towers can hold this one.
    """

    def __init__(
        self,
        *,
        ln_1: nn.Module,
        attn: SelfAttention,
        ln_2: nn.Module,
        mlp: nn.Sequential,
        ls_1: nn.Module | None = None,
        ls_2: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.ln_1 = ln_1
        self.attn = attn
        self.ls_1 = ls_1 or nn.Identity()
        self.ln_2 = ln_2
        self.mlp = mlp
        self.ls_2 = ls_2 or nn.Identity()
        self.fused = True

    def forward(
        self, tokens: Tensor, keys: None = None, values: None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        """[N, L, D] -> [N, L, D]. `attn_mask`, broadcast to [N, H, L, L], is True where a token may look.

        A float mask is added to the scores. `keys` and `values` are open_clip's, for attention to other
        tokens.
        """
        assert keys is None and values is None
        tokens = tokens + self.ls_1(self.attn(self.ln_1(tokens), attn_mask))
        updated: Tensor = tokens + self.ls_2(self._mlp(self.ln_2(tokens)))
        return updated

    def get_weight_dtype(self) -> torch.dtype:
        """The type of the weights; open_clip's towers ask for it."""
        return self.attn.in_proj_weight.dtype

    def call_linear_layers(self) -> None:
        """Compute each product by a call of an nn.Linear from now on, which can be replaced by another one.

        The weights are the same tensors, but those of queries, keys and values get other names: `in_proj.*`.
        """
        self.fused = False
        self.attn = LinearSelfAttention(self.attn)

    def _mlp(self, tokens: Tensor) -> Tensor:
        layers: Any = self.mlp
        first, activation, last = layers
        if not (self.fused and isinstance(activation, QuickGELU)):
            result: Tensor = self.mlp(tokens)
            return result
        # x * sigmoid(s x) = silu(s x) / s. The matrix products apply both factors at no cost, which leaves
        # one operation on the widest tensor, and one tensor less to keep for the backward pass.
        rows, slope = tokens.flatten(0, -2), QUICK_GELU_SLOPE
        hidden = torch.addmm(slope * first.bias, rows, first.weight.T, alpha=slope)
        return torch.addmm(last.bias, F.silu(hidden), last.weight.T, alpha=1 / slope).view_as(tokens)


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on one input: the same weights under the same names.

    With `causal` a token looks at itself and at earlier tokens, and a mask in the call is not used.
    """

    def __init__(self, attention: nn.MultiheadAttention, *, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.causal = causal
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """[N, L, D] -> [N, L, D]."""
        packed = self._project(tokens)
        queries, keys, values = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1)
        )
        mask = None if self.causal or attn_mask is None else attn_mask
        if mask is not None and mask.is_floating_point():
            mask = mask.to(queries.dtype)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=self.causal
        )
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _project(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values, one after another: [N, L, D] -> [N, L, 3 D]."""
        return F.linear(tokens, self.in_proj_weight, self.in_proj_bias)


class LinearSelfAttention(SelfAttention):
    """`SelfAttention` with the same weights in an nn.Linear, `in_proj`, for queries, keys and values."""

    def __init__(self, attention: SelfAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = attention.num_heads
        self.causal = attention.causal
        width = attention.in_proj_weight.shape[1]
        self.in_proj = nn.Linear(width, 3 * width, device="meta")  # without drawing initial weights
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        return self.in_proj.weight

    def _project(self, tokens: Tensor) -> Tensor:
        packed: Tensor = self.in_proj(tokens)
        return packed


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * torch.sigmoid(QUICK_GELU_SLOPE * inputs)


def new_block(width: int, *, heads: int, eps: float) -> TransformerBlock:
    """A block with torch's initial weights, QuickGELU and a hidden layer of 4 * `width`."""
    attention = nn.MultiheadAttention(width, heads, batch_first=True)
    mlp = OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width))
    return TransformerBlock(
        ln_1=nn.LayerNorm(width, eps=eps),
        attn=SelfAttention(attention),
        ln_2=nn.LayerNorm(width, eps=eps),
        mlp=nn.Sequential(mlp),
    )


def replace_blocks(tower: Any, *, causal: bool = False) -> None:
    """Put `TransformerBlock` in the place of open_clip's own block; blocks with other attention stay.

    The weights are the same tensors. `tower` is open_clip's `Transformer`, or anything with `resblocks`.
    """
    from open_clip.transformer import QuickGELU as OpenClipQuickGELU
    from open_clip.transformer import ResidualAttentionBlock

    for position, block in enumerate(tower.resblocks):
        if type(block) is not ResidualAttentionBlock or not _is_plain(block):
            continue
        if isinstance(block.mlp.gelu, OpenClipQuickGELU):
            block.mlp.gelu = QuickGELU()
        parts = {name: getattr(block, name) for name in ("ln_1", "ls_1", "ln_2", "mlp", "ls_2")}
        tower.resblocks[position] = TransformerBlock(attn=SelfAttention(block.attn, causal=causal), **parts)


def _is_plain(block: Any) -> bool:
    """Whether this is attention of tokens to each other, batch first, without dropout."""
    attention = block.attn
    return (
        type(attention) is nn.MultiheadAttention
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not attention.dropout
        and not hasattr(block, "ln_1_kv")
    )
