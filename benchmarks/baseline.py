"""The published way of loading a clip, written plainly from what the published code does. S = 224.

Each stored JPEG is decoded by Pillow and goes through torchvision's transforms by itself; the worker makes
float32 and normalises. Only for comparison: nothing of the project uses it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

SIZE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_to_floats = [T.ToTensor(), T.Normalize(MEAN, STD)]
RESIZE = T.Compose(
    [T.Resize(SIZE, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(SIZE), *_to_floats]
)
AUGMENT = T.Compose(
    [
        T.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
        T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        T.RandomGrayscale(p=0.2),
        T.RandomApply([T.GaussianBlur(13, sigma=(0.1, 2.0))], p=0.5),
        T.RandomHorizontalFlip(),
        *_to_floats,
    ]
)


def load_clip(jpegs: Sequence[bytes], *, augment: bool = False) -> Tensor:
    """float32 [F, 3, S, S] of a clip's stored frames, normalised."""
    transform = AUGMENT if augment else RESIZE
    return torch.stack([transform(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])
