"""The gradient cache gives the gradient of the full batch."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from engine.training import grad_cache
from engine.training.grad_cache import cached_backward
from modules.dual_encoder import DualEncoder
from tests.device import DEVICE
from tests.modules import tiny

SINGLE = [{**tiny.NO_LOSS, f"weight_{name}": 1.0} for name in ("FAM", "VTM", "FTM", "MLM")]


def models(case: int | str) -> tuple[DualEncoder, DualEncoder]:
    if case in ("finetune", "wti"):
        head = "hmmc" if case == "finetune" else str(case)
        return tiny.retrieval_model(head=head).double(), tiny.retrieval_model(head=head).double()
    options: dict[str, Any] = {} if case == "all" else SINGLE[int(case)]
    return tiny.pretrain_model(**options).double(), tiny.pretrain_model(**options).double()


def cached(model: DualEncoder, batch: dict[str, torch.Tensor], chunk: int) -> dict[str, torch.Tensor]:
    return cached_backward(
        model, batch, chunk=chunk, scale=lambda loss: 2.0 * loss, cast=contextlib.nullcontext
    )


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
@pytest.mark.parametrize("case", ["finetune", "wti", "all", 0, 1, 2, 3])
def test_the_gradient_is_that_of_the_full_batch(case: int | str, chunk: int) -> None:
    plain, other = models(case)
    batch = tiny.batch(4, padded=True, tags=case not in ("finetune", "wti"))
    expected = plain(batch)
    (2.0 * expected["loss"]).backward()
    losses = cached(other, batch, chunk)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach(), rtol=1e-9, atol=1e-12)
    ours, theirs = tiny.gradients(other), tiny.gradients(plain)
    assert set(ours) == set(theirs) and any(g.abs().max() > 1e-3 for g in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    for name, value in plain.state_dict().items():  # queues, pointer, momentum weights, statistics
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_both_encodings_use_the_same_dropout() -> None:
    """With one chunk the gradient equals the one without a cache, dropout included."""
    plain, other = models("finetune")
    for model in (plain, other):
        model.text_encoder.ln_final = nn.Sequential(model.text_encoder.ln_final, nn.Dropout(0.5))
    batch = tiny.batch(4)
    torch.manual_seed(3)
    (2.0 * plain(batch)["loss"]).backward()
    after = torch.rand(1)
    torch.manual_seed(3)
    cached(other, batch, 4)
    torch.testing.assert_close(
        torch.rand(1), after, msg="the random generator is where it would be without a cache"
    )
    for name, gradient in tiny.gradients(plain).items():
        torch.testing.assert_close(tiny.gradients(other)[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_autocast_applies_to_both_passes() -> None:
    """The error of the cached bfloat16 gradient is about that of the gradient without a cache."""

    def flat_gradient(model: nn.Module) -> torch.Tensor:
        gradients = tiny.gradients(model).values()
        assert all(g.dtype == torch.float32 for g in gradients)
        return torch.cat([g.flatten() for g in gradients])

    batch, low = tiny.batch(4), torch.bfloat16
    exact, plain, other = (tiny.retrieval_model() for _ in range(3))
    exact(batch)["loss"].backward()
    with torch.autocast(DEVICE.type, dtype=low):
        loss = plain(batch)["loss"]
    loss.backward()
    cached_backward(
        other, batch, chunk=2, scale=torch.clone, cast=lambda: torch.autocast(DEVICE.type, dtype=low)
    )
    errors = [
        ((flat_gradient(m) - flat_gradient(exact)).norm() / flat_gradient(exact).norm()).item()
        for m in (plain, other)
    ]
    assert 1e-4 < errors[1] < 1.5 * errors[0] < 0.1


def test_the_generator_of_a_device_is_put_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout on an accelerator draws from the generator of that device."""

    class Accelerator:
        state = torch.tensor([1])

        def get_rng_state(self, device: torch.device) -> torch.Tensor:
            assert device == cuda
            return self.state

        def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
            assert device == cuda
            self.state = state

    cuda, accelerator = torch.device("cuda", 1), Accelerator()
    monkeypatch.setattr(torch, "get_device_module", lambda device: accelerator if device == cuda else None)
    torch.manual_seed(4)
    states = grad_cache._random_state(cuda)
    drawn, accelerator.state = torch.rand(3), torch.tensor([2])
    grad_cache._restore_random_state(states, cuda)
    assert accelerator.state.tolist() == [1] and torch.equal(torch.rand(3), drawn)
    assert len(grad_cache._random_state(torch.device("cpu"))) == 1


def test_chunks_hold_every_clip_once_in_order() -> None:
    batch = {"frames": torch.arange(5), "index": torch.arange(5) + 10}
    chunks = list(grad_cache._chunks(batch, 2))
    assert [chunk["frames"].tolist() for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert [chunk["index"].tolist() for chunk in chunks] == [[10, 11], [12, 13], [14]]


def test_frozen_encoders_make_no_backward_pass() -> None:
    model = tiny.retrieval_model()
    model.text_encoder.requires_grad_(False)
    cached(model, tiny.batch(4), 2)
    assert tiny.gradients(model) and not any(name.startswith("text") for name in tiny.gradients(model))
    grad_cache._backpropagate({"text": torch.ones(2)}, {"text": torch.ones(2), "video": None})
