"""`--grad_cache`: the gradient of a whole batch at the memory of a few clips (Gao et al., GradCache, 2021).

1. Encode the batch in chunks without a graph. 2. Compute the loss on the features of all chunks, and its
gradient with respect to the features. 3. Encode each chunk again with a graph and backpropagate its part of
that gradient. Both encodings of a chunk draw the same random numbers (dropout).

B clips in the batch of this rank, C clips in a chunk; features are [B, ...], of a chunk [C, ...].
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
    """Forward and backward of one batch, `chunk` clips at a time; adds to the gradients of the parameters.

    `scale` turns the loss into what is differentiated (loss scaling, accumulation); `cast` is autocast.
    DistributedDataParallel is not used: the caller averages gradients over the ranks after the last pass.
    Returns the losses by name, detached, as `model(batch)` returns them.
    """
    device = batch["frames"].device
    chunks = list(_chunks(batch, chunk))
    random_states: list[list[Tensor]] = []
    chunk_features: list[Features] = []
    with torch.no_grad(), cast():
        for clips in chunks:
            random_states.append(_random_state(device))
            chunk_features.append(model.encode(clips))
        model.update_momentum_encoders()
        keys = _concatenate([model.encode_keys(clips) for clips in chunks])
    features = {name: rows.detach().requires_grad_() for name, rows in _concatenate(chunk_features).items()}
    with cast():
        losses = model.losses(features, keys, batch)
    scale(losses["loss"]).backward()
    random_state_after = _random_state(device)
    offsets = dict.fromkeys(features, 0)
    for clips, without_graph, random_state in zip(chunks, chunk_features, random_states, strict=True):
        gradients = _gradients_of_chunk(features, without_graph, offsets)
        _restore_random_state(random_state, device)
        with cast():
            with_graph = model.encode(clips)
        _backpropagate(with_graph, gradients)
    _restore_random_state(random_state_after, device)
    return {name: value.detach() for name, value in losses.items()}


def _chunks(batch: Batch, size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(batch["frames"]), size):
        yield {name: rows[start : start + size] for name, rows in batch.items()}


def _concatenate(chunks: list[Features]) -> Features:
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _gradients_of_chunk(
    features: Features, chunk: Features, offsets: dict[str, int]
) -> dict[str, Tensor | None]:
    """The rows of each feature's gradient that belong to `chunk`; None where no loss uses the feature.

    `offsets`: for each feature its first row of this chunk; advanced to the next chunk here.
    """
    gradients: dict[str, Tensor | None] = {}
    for name, rows in chunk.items():
        start, offsets[name] = offsets[name], offsets[name] + len(rows)
        gradient = features[name].grad
        gradients[name] = None if gradient is None else gradient[start : offsets[name]]
    return gradients


def _backpropagate(features: Features, gradients: Mapping[str, Tensor | None]) -> None:
    pairs = [(features[name], gradient) for name, gradient in gradients.items() if gradient is not None]
    pairs = [(feature, gradient) for feature, gradient in pairs if feature.requires_grad]
    if pairs:  # none where every encoder is frozen
        torch.autograd.backward([feature for feature, _ in pairs], [gradient for _, gradient in pairs])


def _random_state(device: torch.device) -> list[Tensor]:
    """The states of torch's generators on the CPU and on `device`: a forward pass uses no others."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def _restore_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
