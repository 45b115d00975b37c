"""What a pre-trained model brings: two towers, tokenizer, preprocessing, logit scale and bias, its layers.

The rest of the code sees a model only through these types. `registry.py` builds a `Backbone` from a name.

Shapes: N frames, B texts, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from modules.backbones.layers import layers_of
from modules.pixels import PIXEL_MEAN, PIXEL_STD

MAX_LOGIT_SCALE = 100.0  # CLIP's limit of a learned factor (Radford et al. 2021)
RESIZE_MODES = ("shortest", "squash", "longest")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to the pixels that the image tower takes.

    `size` S; `mean` and `std` of pixels from 0 to 1, in the order red, green, blue. `resize`: the "shortest"
    side to S and the centre cropped, both sides to S whatever the shape ("squash"), or the "longest" side to
    S and black borders.
    """

    size: int
    mean: tuple[float, ...] = PIXEL_MEAN
    std: tuple[float, ...] = PIXEL_STD
    resize: str = "shortest"
    interpolation: str = "bicubic"


def tower_size(image: nn.Module) -> int:
    """Pixels a side of the square pictures that an image tower says it takes; 0 if it says nothing."""
    size: Any = getattr(image, "image_size", 0)
    return int(size[0] if isinstance(size, tuple | list) else size)


@dataclass(frozen=True)
class Backbone:
    """A pre-trained model with one joint space.

    `name` is that of the model; `text_name` is the flag that its text tower comes from, for messages.
    `image` maps pixels [N, 3, S, S] to features [N, D]. `text` maps ids [B, W] and a mask [B, W], which is 1
    on tokens, to text features [B, D] and word features [B, W, D], both in the joint space, not normalised.
    `tokenizer` makes the tokenizer for captions of a language ("english", "chinese"); it raises `UserError`
    if its files are absent. `languages` are those that the text tower was trained with.
    `logit_scale` is the factor on cosine similarities; `logit_bias`, of models that were trained with the
    sigmoid loss, is added to the scaled similarities. `context_length` is the most tokens of a text;
    where `reads_padding`, padding is part of a text and every text must have that many. `frame_position_std`
    is the size of the temporal transformer's initial frame positions that suits the image features.
    `by_language`: of two text towers side by side (`with_bert_beside`), what each would be alone, in the
    order of `common.languages.LANGUAGES`; else empty.
    """

    name: str
    text_name: str
    image: nn.Module
    text: nn.Module
    tokenizer: Callable[[str], Any]
    preprocessing: Preprocessing
    embed_dim: int
    vocab_size: int
    context_length: int
    languages: frozenset[str]
    logit_scale: float = MAX_LOGIT_SCALE
    logit_bias: float | None = None
    frame_position_std: float = 0.02
    by_language: Mapping[str, Backbone] = field(default_factory=dict)

    @property
    def reads_padding(self) -> bool:
        """Whether the text tower was trained with texts of `context_length` ids, padding included."""
        return bool(getattr(self.text, "reads_padding", False))

    @property
    def image_layers(self) -> list[nn.Module]:
        """The layers of the image tower, from the first to the last."""
        return layers_of(self.image)

    @property
    def text_layers(self) -> list[nn.Module]:
        """The layers of the text tower, from the first to the last."""
        return layers_of(self.text)
