"""What the model of a run takes: tokenizer, tokens of a text, how frames are resized."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError
from common.languages import languages_of
from dataloaders.tokenization import Tokenizer, TokenizerPair
from dataloaders.transforms import FrameSize, Resize
from engine.config import Config
from modules.backbones.backbone import Backbone
from modules.dual_encoder import DualEncoder


@dataclass(frozen=True)
class InputSpec:
    """The input format of the model: tokenizer, maximum tokens of a text, how frames are resized.

    `reads_padding`: every text must have `context_length` ids, of which the last ones may be padding.
    """

    tokenizer: Tokenizer | TokenizerPair
    context_length: int
    image_size: FrameSize
    reads_padding: bool = False

    def words(self, asked: int | None, default: int) -> int:
        """The ids of a text: those `asked` for by --max_words, else `default` or as many as there can be."""
        if self.reads_padding:
            return self.context_length
        return min(asked or default, self.context_length)


def input_spec(config: Config, model: DualEncoder) -> InputSpec:
    """What `model` takes.

    Raises `UserError` if the tokenizer's files are absent, or if it has ids that the model has no row for.
    """
    backbone = model.backbone
    assert backbone is not None, "the model was built by `build_model`"
    # One tokenizer for both languages may still mark the language of a text.
    parts = backbone.by_language or dict.fromkeys(languages_of(config.language), backbone)
    tokenizers = tuple(_tokenizer(part, language) for language, part in parts.items())
    tokenizer = tokenizers[0] if len(tokenizers) == 1 else TokenizerPair(tokenizers)
    preprocessing = backbone.preprocessing
    return InputSpec(
        tokenizer=tokenizer,
        context_length=backbone.context_length,
        image_size=Resize(preprocessing.size, preprocessing.resize, preprocessing.interpolation),
        reads_padding=backbone.reads_padding,
    )


def _tokenizer(backbone: Backbone, language: str) -> Tokenizer:
    tokenizer: Tokenizer = backbone.tokenizer(language)
    if tokenizer.vocab_size > backbone.vocab_size:
        raise UserError(
            f"{backbone.text_name}: its tokenizer has ids up to {tokenizer.vocab_size - 1}, but its text "
            f"model has {backbone.vocab_size} rows of token embeddings; the two are of different models"
        )
    return tokenizer
