from __future__ import annotations

import torch

from modules.numerics import l2_normalize, without_autocast
from tests.device import DEVICE


def test_unit_length_and_a_zero_row_with_a_finite_gradient() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit = l2_normalize(rows)
    assert torch.allclose(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    (unit * torch.tensor([1.0, 2.0])).sum().backward()
    assert rows.grad is not None and torch.isfinite(rows.grad).all()
    # Not multiplied by 1 / eps.
    assert rows.grad[1].abs().max() <= 2.0


def test_half_precision_becomes_float32_and_float64_stays() -> None:
    assert l2_normalize(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    assert l2_normalize(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_without_autocast_multiplies_in_float32() -> None:
    product = without_autocast(lambda left, right: left @ right)
    left, right = torch.randn(3, 4), torch.randn(4, 2)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert (left @ right).dtype == torch.bfloat16
        assert product(left, right).dtype == torch.float32


def test_only_vectors_shorter_than_eps_keep_their_length() -> None:
    rows = torch.tensor([[3e-7, 4e-7], [6e-6, 8e-6]])
    torch.testing.assert_close(l2_normalize(rows), torch.tensor([[3e-7, 4e-7], [0.6, 0.8]]))
    assert l2_normalize(torch.full((2, 3, 4), 2.0)).norm(dim=-1).tolist() == [[1.0] * 3] * 2
    assert l2_normalize(torch.ones(2, dtype=torch.float16)).dtype == torch.float32
    torch.testing.assert_close(l2_normalize(torch.tensor([0.0, 0.1]), eps=0.5), torch.tensor([0.0, 0.1]))


def test_without_autocast_passes_on_all_arguments_and_the_result() -> None:
    @without_autocast
    def add(first: torch.Tensor, second: float, *, third: float = 0.0) -> torch.Tensor:
        """Doc."""
        return first + second + third

    assert add(torch.tensor(1.0), 2.0, third=4.0).item() == 7.0
    assert (add.__name__, add.__doc__) == ("add", "Doc.")
