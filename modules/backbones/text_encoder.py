"""Token ids to one text feature and one feature a word.

Shapes: B texts, W words, D joint width.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from modules.backbones.hub import load_local_first
from modules.numerics import at_least_float32

_log = logging.getLogger(__name__)


class ClipTextEncoder(nn.Module):
    """CLIP's text tower on the first W of its positions, with causal attention.

    Takes the parts of `clip` under their published names. The text feature is that of the end token, which
    has the largest id.
    """

    attn_mask: Tensor

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.positional_embedding: nn.Parameter = clip.positional_embedding  # type: ignore[assignment]
        self.text_projection: nn.Parameter = clip.text_projection  # type: ignore[assignment]
        self.token_embedding: nn.Module = clip.token_embedding  # type: ignore[assignment]
        self.transformer: nn.Module = clip.transformer  # type: ignore[assignment]
        self.ln_final: nn.Module = clip.ln_final  # type: ignore[assignment]
        self.register_buffer("attn_mask", clip.attn_mask, persistent=False)  # type: ignore[arg-type]
        self.context_length, _ = self.positional_embedding.shape
        self.vocab_size = int(clip.vocab_size)  # type: ignore[arg-type]
        self.embed_dim = self.text_projection.shape[1]

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Text embeds [B, D] and word features [B, W, D]; `mask` is unused, because attention is causal."""
        words = _checked_length(ids, self.context_length)
        # Where weights are sharded they may come in half precision; the residual stream does not.
        tokens = at_least_float32(self.token_embedding(ids) + self.positional_embedding[:words])
        hidden = self.transformer(tokens, attn_mask=self.attn_mask[:words, :words])
        hidden = self.ln_final(hidden) @ self.text_projection
        return hidden[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)], hidden

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text embeds depend on: none."""
        return []


class ChineseTextEncoder(nn.Module):
    """A BERT-class encoder from transformers and one linear layer to the joint width.

    `name_or_folder` is a folder or a name for `transformers.AutoModel`. The network is used only where local
    files do not suffice and `local_files_only` is False. With `pretrained=False` only the configuration is
    read, and the weights are random.
    Raises `UserError` that says what to fetch where the model is not available or lacks weights.
    """

    def __init__(
        self,
        name_or_folder: str | Path,
        *,
        embed_dim: int,
        pretrained: bool = True,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()

        def load(place: str, local: bool) -> nn.Module:
            make = _pretrained_bert if pretrained else _random_bert
            return make(place, cache_dir=cache_dir, local_files_only=local)

        self.chinese_encoder = load_local_first(
            load,
            str(name_or_folder),
            what="text encoder",
            files=["config.json"],
            cache_dir=cache_dir,
            allow_download=not local_files_only,
        )
        config: Any = self.chinese_encoder.config
        self.text_proj = nn.Linear(config.hidden_size, embed_dim)
        self.embed_dim = embed_dim
        self.vocab_size = int(config.vocab_size)
        self.context_length = int(config.max_position_embeddings)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Text embeds [B, D] and word features [B, W, D] of `ids` [B, W]; `mask` [B, W] is 1 on tokens."""
        _checked_length(ids, self.context_length)
        if mask is not None and self._takes_4d_masks():
            mask = mask.bool()[:, None, None, :]  # [B, heads, queries, keys]
        outputs = self.chinese_encoder(input_ids=ids, attention_mask=mask)
        hidden = outputs.last_hidden_state
        pooled = getattr(outputs, "pooler_output", None)
        # An encoder without a pooler gives its first token ([CLS]) as the text feature.
        return self.text_proj(hidden[:, 0] if pooled is None else pooled), self.text_proj(hidden)

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text embeds depend on."""
        pooler = getattr(self.chinese_encoder, "pooler", None)
        return [] if pooler is None else list(pooler.parameters())

    def _takes_4d_masks(self) -> bool:
        """Whether the encoder hands a mask [B, 1, 1, W] on to `scaled_dot_product_attention` as it is.

        Of a mask [B, W] transformers asks whether it is full, for which the CPU waits. Versions before 5 have
        another way, and take masks [B, W] only. Encoders with sliding windows make their masks themselves.
        """
        encoder: Any = self.chinese_encoder
        module = sys.modules[type(encoder).__module__]
        return (
            hasattr(module, "create_bidirectional_mask")
            and not hasattr(module, "create_bidirectional_sliding_window_mask")
            and getattr(encoder.config, "_attn_implementation", None) == "sdpa"
            and not getattr(encoder.config, "is_decoder", False)
        )


def _checked_length(ids: Tensor, positions: int) -> int:
    """W of `ids` [B, W]. Raises `UserError` where it is above `positions`."""
    words = ids.shape[1]
    if words > positions:
        raise UserError(f"--max_words: {words} words a text, but the text encoder has {positions} positions")
    return words


def _random_bert(source: str, **options: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    model: nn.Module = AutoModel.from_config(AutoConfig.from_pretrained(source, **options))
    return model.float()


def _pretrained_bert(source: str, **options: Any) -> nn.Module:
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(source, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    needed = [name for name in missing if not name.startswith("pooler.")]
    if needed:
        raise UserError(
            f"--pretrained_text {source}: its weight file lacks {len(needed)} weights of its architecture, "
            f"first {', '.join(needed[:3])}; give a complete model"
        )
    if missing:
        _log.warning("%s has no pooler weights; they start from random values", source)
    encoder: nn.Module = model
    return encoder.float()
