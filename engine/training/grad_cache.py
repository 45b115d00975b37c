"""`--grad_cache`: the gradient of a whole batch at the memory of a few clips (Gao et al., GradCache, 2021).

The clips are encoded a few at a time without a graph; the loss is computed on the features of all of them,
and its gradient with respect to the features is kept; then the same few are encoded again, with a graph, and
the kept gradient is pushed through. Random numbers (dropout) are drawn again as they were the first time.

B clips of this rank, n clips at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from modules.dual_encoder import DualEncoder, Features

Batch = Mapping[str, Tensor]


def cached_backward(
    model: DualEncoder,
    batch: Batch,
    *,
    chunk: int,
    scale: Callable[[Tensor], Tensor],
    cast: Callable[[], contextlib.AbstractContextManager[None]],
) -> dict[str, Tensor]:
    """Forward and backward of one batch, `chunk` clips at a time; gradients add up in the parameters.

    `scale` makes of the loss what is differentiated (loss scaling, accumulation), `cast` is autocast.
    DistributedDataParallel has no part in it: the caller averages gradients over the ranks when all passes
    are done. Returns the losses by name, detached, as `model(batch)` gives them.
    """
    device = batch["frames"].device
    chunks = list(_chunks(batch, chunk))
    states: list[list[Tensor]] = []
    pieces: list[Features] = []
    with torch.no_grad(), cast():
        for part in chunks:
            states.append(_random_state(device))
            pieces.append(model.encode(part))
        model.update_momentum_encoders()
        keys = _joined([model.encode_keys(part) for part in chunks])
    features = {name: rows.detach().requires_grad_() for name, rows in _joined(pieces).items()}
    with cast():
        losses = model.losses(features, keys, batch)
    scale(losses["loss"]).backward()
    after = _random_state(device)
    offsets = dict.fromkeys(features, 0)
    for part, piece, state in zip(chunks, pieces, states, strict=True):
        gradients = _shares(features, piece, offsets)
        _restore(state, device)
        with cast():
            again = model.encode(part)
        _push(again, gradients)
    _restore(after, device)
    return {name: value.detach() for name, value in losses.items()}


def _chunks(batch: Batch, size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(batch["frames"]), size):
        yield {name: rows[start : start + size] for name, rows in batch.items()}


def _joined(pieces: list[Features]) -> Features:
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _shares(features: Features, piece: Features, offsets: dict[str, int]) -> dict[str, Tensor | None]:
    """The rows of each feature's gradient that belong to one chunk; None where no loss reads the feature."""
    shares: dict[str, Tensor | None] = {}
    for name, rows in piece.items():
        start, offsets[name] = offsets[name], offsets[name] + len(rows)
        gradient = features[name].grad
        shares[name] = None if gradient is None else gradient[start : offsets[name]]
    return shares


def _push(features: Features, gradients: Mapping[str, Tensor | None]) -> None:
    pairs = [(features[name], gradient) for name, gradient in gradients.items() if gradient is not None]
    pairs = [(feature, gradient) for feature, gradient in pairs if feature.requires_grad]
    if pairs:  # with every encoder frozen there is nothing left to do
        torch.autograd.backward([feature for feature, _ in pairs], [gradient for _, gradient in pairs])


def _random_state(device: torch.device) -> list[Tensor]:
    """Torch's streams on the CPU and on `device`: the only ones that a forward pass draws from."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
