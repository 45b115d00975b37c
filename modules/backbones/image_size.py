"""Another size of the pictures that an image tower takes: its position embeddings are interpolated.

Shapes: S pixels a side, G patches a side, P positions, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


@torch.no_grad()
def resize_image_tower(visual: Any, size: int, *, flag: str) -> None:
    """Make `visual` take pictures of `size` pixels a side, in place, after its weights are loaded.

    Position embeddings are interpolated (bicubic, antialiased), as open_clip and timm do. Towers without
    them, as ConvNeXt, take any size. Raises `UserError` where the size is none that the tower can take.
    """
    step = _step_of(visual)
    if size < step or size % step:
        nearest = max(step, round(size / step) * step)
        raise UserError(
            f"--image_size {size}: the image tower of {flag} takes multiples of {step}; give {nearest}"
        )
    if hasattr(visual, "trunk"):
        _resize_timm(visual, size, flag)
    elif hasattr(visual, "vision_model"):
        _resize_hf(visual, size)
    elif hasattr(visual, "transformer"):
        grid = (size // step, size // step)
        visual.positional_embedding = _parameter(visual.positional_embedding, grid)
        visual.grid_size = grid
    else:
        _resize_resnet(visual, size // step)
    visual.image_size = (size, size)


def interpolate_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """[P, D] of a square grid, perhaps with a class token before it, to [G * G (+ 1), D] in float32."""
    side = int(len(positions) ** 0.5)
    extra = len(positions) - side * side
    first, patches = positions[:extra], positions[extra:]
    if grid == (side, side):
        return positions
    picture = patches.float().T.unflatten(1, (side, side)).unsqueeze(0)
    resized = F.interpolate(picture, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first.float(), resized[0].flatten(1).T])


def _step_of(visual: Any) -> int:
    """Sizes must be a multiple of it: the side of a patch, or how much smaller the last feature map is."""
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
        info = getattr(trunk, "feature_info", None)
        if patch is not None and type(trunk).__name__ != "SwinTransformer":
            return int(patch[0])
        return int(info[-1]["reduction"]) if info else 32
    if hasattr(visual, "vision_model"):
        return int(visual.vision_model.embeddings.patch_size)
    return int(visual.patch_size[0]) if hasattr(visual, "patch_size") else 32


def _resize_timm(visual: Any, size: int, flag: str) -> None:
    if not hasattr(visual.trunk, "set_input_size"):
        if getattr(visual.trunk, "pos_embed", None) is not None:
            raise UserError(f"--image_size {size}: the image tower of {flag} takes one size only")
        return
    try:
        visual.trunk.set_input_size(img_size=(size, size))
    except (AssertionError, ValueError) as error:
        raise UserError(f"--image_size {size}: the image tower of {flag} cannot take it ({error})") from error


def _resize_hf(visual: Any, size: int) -> None:
    embeddings = visual.vision_model.embeddings
    side = size // int(embeddings.patch_size)
    weight = interpolate_positions(embeddings.position_embedding.weight, (side, side))
    embeddings.position_embedding = nn.Embedding.from_pretrained(weight, freeze=False)
    embeddings.num_patches, embeddings.num_positions = side * side, len(weight)
    embeddings.position_ids = torch.arange(len(weight), device=weight.device).unsqueeze(0)
    embeddings.image_size = size


def _resize_resnet(visual: Any, side: int) -> None:
    pool = visual.attnpool
    pool.positional_embedding = _parameter(pool.positional_embedding, (side, side))


def _parameter(positions: nn.Parameter, grid: tuple[int, int]) -> nn.Parameter:
    return nn.Parameter(interpolate_positions(positions, grid), requires_grad=positions.requires_grad)
