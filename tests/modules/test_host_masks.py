from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules import host_masks
from tests.device import DEVICE

MASK = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=torch.bool)


def test_positions_are_those_of_a_boolean_index() -> None:
    labels = torch.tensor([[-100, 0], [7, -100]])
    assert host_masks.positions(MASK).tolist() == [0, 1, 6, 8]
    assert host_masks.positions(labels, empty=-100).tolist() == [1, 2]
    values = torch.randn(3, 3, 5)
    assert torch.equal(host_masks.select(values, MASK), values[MASK])
    assert host_masks.select(values, torch.zeros_like(MASK)).shape == (0, 5)


def test_a_full_mask_is_none() -> None:
    full = torch.ones(2, 3, dtype=torch.bool)
    assert host_masks.without_full_mask(None) is host_masks.without_full_mask(full) is None
    assert host_masks.without_full_mask(MASK) is MASK
    assert host_masks.for_losses(full, DEVICE) is host_masks.for_losses(None, DEVICE) is None


def test_over_ranks_losses_get_full_masks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a rank whose clips are all real would not take part in the exchange of counts."""
    monkeypatch.setattr(host_masks, "world_size", lambda: 2)
    full = torch.ones(2, 3, dtype=torch.bool)
    loss_mask = host_masks.for_losses(full, DEVICE)
    assert loss_mask is not None and torch.equal(loss_mask, full)


def test_a_function_sees_real_frames_only_and_padding_gets_zeros() -> None:
    frames = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 2, dtype=torch.float64)
    rows: list[int] = []

    def function(values: Tensor) -> Tensor:
        rows.append(len(values))
        return values @ weight

    ours = host_masks.on_real_frames(function, frames, MASK)
    expected = (frames @ weight) * MASK.unsqueeze(-1)
    assert rows == [4] and torch.allclose(ours, expected, rtol=1e-12)
    weights = torch.randn(3, 3, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), frames)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), frames)
    assert torch.allclose(gradient, wanted, rtol=1e-12)
    assert torch.equal(host_masks.on_real_frames(function, frames, None), frames @ weight)
    assert rows == [4, 9]
