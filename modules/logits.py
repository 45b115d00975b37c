"""From cosines to logits: the factor, for some losses a bias, both constants or learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modules.backbones.backbone import MAX_LOGIT_SCALE
from modules.losses.batch_loss import BatchLoss


class Logits(nn.Module):
    """logit = scale * cosine + bias; without a `bias` only the factor.

    `learned`: the logarithm of the factor and the bias are parameters of one number, `log_scale` and `bias`,
    which have no weight decay. Otherwise the factor is a constant, and nothing is saved. A learned factor is
    at most `most` after each step (None: any).
    """

    def __init__(
        self,
        scale: float = MAX_LOGIT_SCALE,
        bias: float | None = None,
        *,
        learned: bool = False,
        most: float | None = MAX_LOGIT_SCALE,
    ) -> None:
        super().__init__()
        assert scale > 0 and (learned or bias is None)
        self.constant = None if learned else scale
        self.most = most
        # Of one dimension: numbers without dimension cannot be sharded.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)])) if learned else None
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))
        self.limit()

    @property
    def scale(self) -> float | Tensor:
        """The factor: a constant, or [1] with gradient."""
        if self.log_scale is None:
            assert self.constant is not None
            return self.constant
        return self.log_scale.exp()

    def forward(self, cosines: Tensor) -> Tensor:
        """The logits of cosines of any shape."""
        return self.with_bias(self.scale * cosines)

    def with_bias(self, scaled: Tensor) -> Tensor:
        """The logits of cosines that are multiplied by the factor already, as heads give them."""
        return scaled if self.bias is None else scaled + self.bias

    @torch.no_grad()
    def limit(self) -> None:
        """Keep a learned factor at or below `most`. Called after each step; the CPU does not wait."""
        if self.log_scale is not None and self.most is not None:
            self.log_scale.clamp_(max=math.log(self.most))

    def learned(self) -> dict[str, Tensor]:
        """Scalars for the log, on the device, of what is learned: copies, as a step changes the originals."""
        scalars = {}
        if self.log_scale is not None:
            scalars["logit_scale"] = self.log_scale.detach().exp().squeeze()
        if self.bias is not None:
            scalars["logit_bias"] = self.bias.detach().clone().squeeze()
        return scalars


def logits_for(loss: BatchLoss, *, scale: float, bias: float | None = None, learn: bool = False) -> Logits:
    """The logits for `loss` of a backbone whose own factor is `scale`, with a `bias` if it has one.

    A loss that needs a bias learns both, from the backbone's values or, where that has no bias, from the
    loss's own start. For the others the factor, at most 100, is a constant unless `learn`.
    """
    if loss.start is None:
        return Logits(min(scale, MAX_LOGIT_SCALE), learned=learn)
    start = loss.start if bias is None else (scale, bias)
    return Logits(*start, learned=True, most=None)
