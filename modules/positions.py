"""Another number of positions than a model was trained with: of frames, or of the tokens of a text.

Shapes: P positions of the model, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FRAME_POSITIONS = 48  # of the published temporal transformer
# The first positions of a text are those that nearly every text trained. They stay, the others are stretched
# (Zhang et al., Long-CLIP, ECCV 2024).
TEXT_POSITIONS_KEPT = 20


@torch.no_grad()
def resize_positions(positions: Tensor, count: int, *, kept: int = 0) -> Tensor:
    """[P, D] to [`count`, D]: the first ones of more than enough, else interpolated linearly.

    The first `kept` stay as they are, the others are stretched, so that the last one stays the last.
    """
    rows = len(positions)
    if count <= rows:
        return positions[:count].clone()
    kept = min(kept, rows - 1)
    rest = positions[kept:].float().T.unsqueeze(0)  # [1, D, P - kept]
    stretched = F.interpolate(rest, size=count - kept, mode="linear", align_corners=True)[0].T
    return torch.cat([positions[:kept], stretched.to(positions.dtype)])
