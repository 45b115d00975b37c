"""Numerically safe helpers: unit vectors with finite gradients, and float32 where autocast is on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
SHORTEST = 1e-6  # shorter vectors are not normalised


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 are unchanged."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def lowest(values: Tensor) -> float:
    """The number that has no weight in a softmax and is never a maximum, in the type of `values`."""
    return torch.finfo(values.dtype).min


def l2_normalize(vectors: Tensor, *, eps: float = SHORTEST) -> Tensor:
    """Vectors of length 1 along the last dimension, in float32 or better.

    A vector shorter than `eps` is not scaled: a zero vector stays zero, its cosines are finite, and its
    gradient is not multiplied by 1 / eps.
    """
    vectors = at_least_float32(vectors)
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.masked_fill(lengths < eps, 1.0)


def without_autocast(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator: `function`, whose first argument is a tensor, runs with autocast off on its device.

    Similarities times 100 (or divided by a temperature) need more digits than half precision has.
    """

    @functools.wraps(function)
    def wrapped(first: Tensor, /, *args: object, **kwargs: object) -> Result:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return wrapped
