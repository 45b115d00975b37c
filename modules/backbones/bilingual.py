"""Two text encoders side by side: CLIP's for English and a BERT-class one for Chinese texts.

Shapes: B texts, W words, D joint width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.languages import LANGUAGES
from modules import host_masks
from modules.backbones.text_encoder import ChineseTextEncoder, ClipTextEncoder, name_bert_parts

Encoded = tuple[Tensor, Tensor]


class BilingualTextEncoder(ClipTextEncoder, ChineseTextEncoder):
    """Encodes each text of a batch with the encoder of its language.

    Takes the parts of both under their published names, so that the weights of either are read by name from a
    bilingual checkpoint, and those of a bilingual model from two checkpoints of one language. Other
    attributes, as `context_length`, are those of the English one.
    """

    def __init__(self, english: ClipTextEncoder, chinese: ChineseTextEncoder) -> None:
        ClipTextEncoder.__init__(self, english)
        assert english.embed_dim == chinese.embed_dim
        self.chinese_encoder = chinese.chinese_encoder
        self.text_proj = chinese.text_proj
        name_bert_parts(self)

    def forward(self, ids: Tensor, mask: Tensor | None = None, language: Tensor | None = None) -> Encoded:
        """Text embeds [B, D] and word features [B, W, D] of `ids` [B, W].

        `language` [B] says which of `LANGUAGES` a text is in. On the host it costs no wait for the device.
        While training, both encoders run in every pass, also for a batch of one language: all ranks then have
        the same parameters with a gradient (zero where there was no text), and gather the same shards.
        """
        assert language is not None, "a bilingual model must know the language of each text"
        rows = [host_masks.rows_with(language, number) for number in range(len(LANGUAGES))]
        encoded = [
            self._encode(number, ids, mask, chosen)
            for number, chosen in enumerate(rows)
            if len(chosen) or self.training
        ]
        order = host_masks.on_device(torch.cat(rows).argsort(), ids.device)
        texts, words = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return texts.index_select(0, order), words.index_select(0, order)

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text embeds depend on: those of the Chinese encoder."""
        return ChineseTextEncoder.pooler_parameters(self)

    def _encode(self, number: int, ids: Tensor, mask: Tensor | None, rows: Tensor) -> Encoded:
        """The features of `rows` int64 [N] of the batch; N may be 0."""
        if not len(rows):
            texts, words = self.of_language(number, torch.zeros_like(ids[:1]), torch.ones_like(ids[:1]))
            return texts[:0] + 0 * texts.sum(), words[:0] + 0 * words.sum()
        chosen = host_masks.on_device(rows, ids.device)
        return self.of_language(
            number, ids.index_select(0, chosen), None if mask is None else mask.index_select(0, chosen)
        )

    def of_language(self, number: int, ids: Tensor, mask: Tensor | None) -> Encoded:
        """`forward` of texts that are all in the language `LANGUAGES[number]`."""
        encoder: Any = (ClipTextEncoder, ChineseTextEncoder)[number]
        encoded: Encoded = encoder.forward(self, ids, mask)
        return encoded


def encode_texts(encoder: nn.Module, ids: Tensor, mask: Tensor | None, language: Tensor | None) -> Encoded:
    """What `encoder` makes of `ids` [B, W]; only one with an encoder for each language needs `language`."""
    if isinstance(encoder, BilingualTextEncoder):
        encoded: Encoded = encoder(ids, mask, language)
    else:
        encoded = encoder(ids, mask)
    return encoded
