"""Masks and labels on the host: they decide shapes, and reading them there does not wait for the device.

A batch keeps its frame mask and its labels on the host (the CPU). A question like "are all frames real?"
about a tensor on a GPU stops the CPU until the GPU has done all its work. The functions here also take masks
that are on the device, as evaluation and search may have them: the result is the same, and the CPU waits.

Shapes: B clips, F frames, N real frames of all clips together, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.device_copies import on_device
from modules.gather import world_size

__all__ = [
    *("for_losses", "is_full", "on_device", "on_real_frames", "positions", "rows_with", "select"),
    "without_full_mask",
]


def without_full_mask(mask: Tensor | None) -> Tensor | None:
    """`mask`, or None where it is True everywhere: then nothing needs a mask."""
    return None if mask is None or is_full(mask) else mask


def is_full(mask: Tensor) -> bool:
    """Whether `mask`, bool, is True everywhere."""
    return bool(mask.all())


def positions(entry: Tensor, *, empty: int = 0) -> Tensor:
    """Positions in the flattened `entry` of the values that are not `empty`: int64 [N], where `entry` is."""
    return (entry.flatten() != empty).nonzero().squeeze(1)


def rows_with(entry: Tensor, value: int) -> Tensor:
    """The rows of `entry` [B] that are `value`: int64 [N], where `entry` is."""
    return (entry == value).nonzero().squeeze(1)


def for_losses(mask: Tensor | None, device: torch.device) -> Tensor | None:
    """`mask` on `device`. In a single process a full mask becomes None.

    Over ranks it does not: losses with a mask exchange counts, and all ranks must do so.
    """
    if mask is not None and world_size() == 1:
        mask = without_full_mask(mask)
    return None if mask is None else on_device(mask, device)


def select(values: Tensor, entry: Tensor, *, empty: int = 0) -> Tensor:
    """The rows of `values` [B, F, ...] where `entry` [B, F] is not `empty`: [N, ...]."""
    return values.flatten(0, 1).index_select(0, on_device(positions(entry, empty=empty), values.device))


def on_real_frames(function: Callable[[Tensor], Tensor], frames: Tensor, mask: Tensor | None) -> Tensor:
    """`function`, [N, ...] -> [N, D], on the real frames of [B, F, ...]; padding becomes zeros: [B, F, D].

    Padding takes no time and is in no batch statistics. `mask` [B, F] is True on real frames; None means that
    all are real.
    """
    shape = frames.shape[:2]
    if mask is None or is_full(mask):
        return function(frames.flatten(0, 1)).unflatten(0, shape)
    real = on_device(positions(mask), frames.device)
    rows = function(frames.flatten(0, 1).index_select(0, real))
    return rows.new_zeros(shape.numel(), rows.shape[-1]).index_copy(0, real, rows).unflatten(0, shape)
