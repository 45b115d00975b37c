"""Numbers that stay finite and in float32: unit vectors and a guard against autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def l2_normalize(vectors: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Vectors of length 1 along the last dimension, in float32 or better.

    A vector shorter than `eps` is left as it is: a zero row stays zero, its cosine with anything is
    finite, and its gradient is not blown up by 1 / eps.
    """
    vectors = at_least_float32(vectors)
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.masked_fill(lengths < eps, 1.0)


def without_autocast(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run `function`, whose first argument is a tensor, with autocast off on that tensor's device.

    Similarities divided by a temperature (or times 100) need more digits than half precision has.
    """

    @functools.wraps(function)
    def wrapped(first: Tensor, *args: object, **kwargs: object) -> Result:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return wrapped
