"""Token ids to one text feature and one feature a word.

Shapes: B texts, W words, D joint width.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from modules.backbones.hub import load_local_first
from modules.backbones.layers import name_parts
from modules.numerics import at_least_float32
from modules.transformer_block import TransformerBlock

_log = logging.getLogger(__name__)


class ClipTextEncoder(nn.Module):
    """A text tower of open_clip's: CLIP's own on the first W of its positions, with causal attention.

    Takes the parts of `clip`, a `CLIP` or a `TextTransformer` of open_clip, under their published names. The
    text feature is that of one token (`pool_type`): the one with the largest id, which is CLIP's end token
    ("argmax"), the first end token ("eos"), or the "first" or "last" one. CoCa appends a token for it.

    A tower for which padding is part of the text (`reads_padding`: it attends in both directions, or takes
    the last position) is given its full `context_length`; missing ids are filled up with `pad_id`.
    """

    attn_mask: Tensor | None
    cls_emb: nn.Parameter | None

    def __init__(self, clip: nn.Module) -> None:
        nn.Module.__init__(self)  # not super(): a bilingual encoder has a second base
        tower: Any = clip
        self.positional_embedding: nn.Parameter = tower.positional_embedding
        self.text_projection: nn.Parameter | nn.Linear | None = tower.text_projection
        self.token_embedding: nn.Module = tower.token_embedding
        self.transformer: nn.Module = tower.transformer
        self.ln_final: nn.Module = tower.ln_final
        self.register_parameter("cls_emb", getattr(tower, "cls_emb", None))
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)
        is_clip = hasattr(tower, "text_pool_type")  # a CLIP holds the parts of its text tower itself
        self.pool_type: str = tower.text_pool_type if is_clip else tower.pool_type
        self.eos_id: int = tower.text_eos_id if is_clip else tower.eos_id
        self.pad_id: int = getattr(tower, "pad_id", 0)
        self.context_length = int(tower.context_length)
        self.vocab_size = int(tower.vocab_size)
        width = self.ln_final.weight.shape[0]
        self.embed_dim = width if self.text_projection is None else _joint_width(self.text_projection)
        one_token = self.pool_type in ("argmax", "eos", "first")
        self.reads_padding = self.attn_mask is None or self.cls_emb is not None or not one_token
        blocks = list(tower.transformer.resblocks)
        if self.cls_emb is not None and not all(isinstance(block, TransformerBlock) for block in blocks):
            raise UserError("CLIP model: a text tower with 'embed_cls' cannot have blocks of type 'custom'")
        name_parts(
            self,
            embeddings=("token_embedding", "positional_embedding", "cls_emb"),
            layers=("transformer.resblocks.*",),
        )

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Text features [B, D] and word features [B, W, D] of `ids` [B, W].

        `mask` is unused: padding comes after what a token attends to, or it is part of the text.
        """
        words = checked_length(ids, self.context_length)
        if self.reads_padding:
            ids = F.pad(ids, (0, self.context_length - words), value=self.pad_id)
        tokens = self.token_embedding(ids)
        if self.cls_emb is not None:
            tokens = torch.cat([tokens, self.cls_emb.to(tokens.dtype).expand(ids.shape[0], 1, -1)], dim=1)
        length = tokens.shape[1]
        # Where weights are sharded they may come in half precision; the residual stream does not.
        tokens = at_least_float32(tokens + self.positional_embedding[:length])
        hidden = self.transformer(tokens, attn_mask=self._attention_mask(ids, length))
        hidden = self._project(self.ln_final(hidden))
        return self._pool(hidden, ids), hidden[:, :words]

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text embeds depend on: none, or the appended token."""
        return []

    def _attention_mask(self, ids: Tensor, length: int) -> Tensor | None:
        if self.cls_emb is None:
            return None if self.attn_mask is None else self.attn_mask[:length, :length]
        # CoCa's weights were trained with a mask of padding that is shifted by one: the appended token stands
        # first in it, not last.
        seen = torch.cat([torch.ones_like(ids[:, :1], dtype=torch.bool), ids != self.pad_id], dim=1)
        both = seen[:, None, None, :]
        return both if self.attn_mask is None else both & (self.attn_mask[:length, :length] == 0)

    def _project(self, hidden: Tensor) -> Tensor:
        if self.text_projection is None:
            return hidden
        if isinstance(self.text_projection, nn.Linear):
            projected: Tensor = self.text_projection(hidden)
            return projected
        return hidden @ self.text_projection

    def _pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        if self.cls_emb is not None or self.pool_type == "last":
            return hidden[:, -1]
        if self.pool_type == "first":
            return hidden[:, 0]
        assert self.pool_type in ("argmax", "eos"), self.pool_type
        place = ids if self.pool_type == "argmax" else (ids == self.eos_id).int()
        return hidden[torch.arange(ids.shape[0], device=ids.device), place.argmax(dim=-1)]


def _joint_width(projection: nn.Parameter | nn.Linear) -> int:
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


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
        name_bert_parts(self)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Text embeds [B, D] and word features [B, W, D] of `ids` [B, W]; `mask` [B, W] is 1 on tokens."""
        checked_length(ids, self.context_length)
        if mask is not None and takes_4d_masks(self.chinese_encoder):
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


def takes_4d_masks(encoder: Any) -> bool:
    """Whether an encoder of transformers hands a mask [B, 1, 1, W] on to torch's attention as it is.

    Of a mask [B, W] transformers asks whether it is full, for which the CPU waits. Versions before 5 have
    another way, and take masks [B, W] only. Encoders with sliding windows make their masks themselves.
    """
    module = sys.modules[type(encoder).__module__]
    return (
        hasattr(module, "create_bidirectional_mask")
        and not hasattr(module, "create_bidirectional_sliding_window_mask")
        and getattr(encoder.config, "_attn_implementation", None) == "sdpa"
        and not getattr(encoder.config, "is_decoder", False)
    )


def name_bert_parts(encoder: nn.Module) -> None:
    """Name the embeddings and layers of the BERT model in `encoder.chinese_encoder`."""
    name_parts(
        encoder, embeddings=("chinese_encoder.embeddings",), layers=("chinese_encoder.encoder.layer.*",)
    )


def checked_length(ids: Tensor, positions: int) -> int:
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
