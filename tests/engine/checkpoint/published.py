"""States with the names, shapes and dtypes of published checkpoints, made from the golden names and shapes.

The golden model is small; `full_size` gives ViT-B/32 (768 wide, 12 layers), CLIP's text tower (512, 12) or
BERT-base (768, 12), 4 temporal layers and 1,024 clips of 12 frames in the queues.
"""

from __future__ import annotations

import re
import zlib

import torch
from torch import Tensor

from tests.golden import recipe

LAYERS = 12
KINDS = ("ft", "pt/msrvtt", "pt/bird")
_GOLDEN_WIDTH, _GOLDEN_LAYERS = 128, 2
_TOWERS = re.compile(r"(visual_encoder(_k)?\.visual|text_encoder(_k)?\.(?!chinese_encoder|text_proj\.))")
_BERT_SIZES = {503: 21128, 64: 512, 256: 3072}  # words, positions, width between two layers
_QUEUE_SIZES = {16: 1024, 96: 1024 * 12}
# The weights that CLIP stores in float16: all but embeddings and norms.
_HALF = re.compile(
    r"(conv1\.weight|in_proj_(weight|bias)|(out_proj|c_fc|c_proj)\.(weight|bias)|\.proj|text_projection)$"
)


def golden_shapes(language: str, kind: str) -> dict[str, list[int]]:
    """Names and shapes of the small golden model."""
    shapes: dict[str, list[int]] = recipe.numbers()[f"{language}/{kind}/state"]
    return shapes


def full_size(language: str, kind: str) -> dict[str, list[int]]:
    """Names and shapes of a published checkpoint of this language and kind (`ft`, `pt/...`)."""
    shapes = {}
    for name, shape in golden_shapes(language, kind).items():
        layer = re.search(r"(resblocks|encoder\.layer)\.(\d+)\.", name)
        if layer is None or "temporal" in name:
            shapes[name] = _scaled(name, shape)
        elif layer[2] == "0":
            for number in range(LAYERS):
                twin = name.replace(f"{layer[1]}.0.", f"{layer[1]}.{number}.")
                shapes[twin] = _scaled(name, shape)
    return shapes


def filled(shapes: dict[str, list[int]], *, half: bool = True, dense: bool = True) -> dict[str, Tensor]:
    """A state in which every tensor has a different value, so that swapped tensors are noticed.

    `half`: float16 where the published files have it. Without `dense` a tensor takes the space of one number.
    """
    return {name: _constant(name, shape, half=half, dense=dense) for name, shape in shapes.items()}


def value_of(name: str) -> float:
    """The value that `filled` gives a tensor: exact in float16; one for both names of the head's bias."""
    name = name.replace("cls.decoder.bias", "cls.bias")
    return (
        0
        if "queue_ptr" in name or "num_batches" in name
        else (zlib.crc32(name.encode()) % 2000 - 1000) / 1024
    )


def _constant(name: str, shape: list[int], *, half: bool, dense: bool) -> Tensor:
    if name.endswith(("queue_ptr", "num_batches_tracked")):
        return torch.zeros(shape, dtype=torch.long)
    dtype = torch.float16 if half and _TOWERS.match(name) and _HALF.search(name) else torch.float32
    number = torch.tensor(value_of(name), dtype=dtype).expand(shape)
    return number.contiguous() if dense else number


def _scaled(name: str, shape: list[int]) -> list[int]:
    if name.startswith("queue"):
        return [_QUEUE_SIZES.get(size, size) for size in shape]
    if "chinese_encoder" in name or name.startswith("cls."):
        return [_BERT_SIZES.get(size, size) for size in shape]
    if not _TOWERS.match(name):
        return shape
    if name.endswith("visual.positional_embedding"):
        return [50, 768]
    factor = (768 if ".visual." in name else 512) // _GOLDEN_WIDTH
    if name.endswith((".proj", "text_projection")):
        return [shape[0] * factor, shape[1]]  # to the joint width, which stays
    return [size * factor if size in (128, 384, 512) else size for size in shape]
