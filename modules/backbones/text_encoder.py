"""Token ids to one text feature and one feature a word (METHOD section 2).

Shapes: B texts, W words, D joint width, H width of the text tower.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)


class ClipTextEncoder(nn.Module):
    """CLIP's text tower on the first W of its positions, causal.

    Takes over the parts of `clip` under their published names. The feature is the position of the largest id,
    which is the end token's.
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
        """Text embeds [B, D] and hidden [B, W, D]; the causal mask makes `mask` [B, W] superfluous.

        Raises ValueError where W is above `context_length`.
        """
        words = ids.shape[1]
        if words > self.context_length:
            raise ValueError(f"{words} words a text, but the text tower has {self.context_length} positions")
        tokens = self.token_embedding(ids) + self.positional_embedding[:words]
        hidden = self.transformer(tokens, attn_mask=self.attn_mask[:words, :words])
        hidden = self.ln_final(hidden) @ self.text_projection
        return hidden[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)], hidden

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text embeds depend on: none."""
        return []


class ChineseTextEncoder(nn.Module):
    """A BERT-class encoder from transformers and one linear layer to the joint width.

    `name_or_folder` is any `transformers.AutoModel` name or folder. Local files are used without touching
    the network; it is asked only where they lack something and `local_files_only` is False. With
    `pretrained=False` only the configuration is read and the weights stay random.
    Raises ValueError with what to fetch where the model cannot be had, and where its weights do not fit.
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
        load = _pretrained_bert if pretrained else _random_bert
        self.chinese_encoder = _local_first(
            load, str(name_or_folder), cache_dir=cache_dir, local_files_only=local_files_only
        )
        config: Any = self.chinese_encoder.config
        self.text_proj = nn.Linear(config.hidden_size, embed_dim)
        self.embed_dim = embed_dim
        self.vocab_size = int(config.vocab_size)
        self.context_length = int(config.max_position_embeddings)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Text embeds [B, D] and hidden [B, W, D] of `ids` [B, W]; `mask` [B, W] is 1 on real tokens.

        Raises ValueError where W is above `context_length`.
        """
        if ids.shape[1] > self.context_length:
            raise ValueError(
                f"{ids.shape[1]} words a text, but the encoder has {self.context_length} positions"
            )
        outputs = self.chinese_encoder(input_ids=ids, attention_mask=mask)
        hidden = outputs.last_hidden_state
        pooled = getattr(outputs, "pooler_output", None)
        # Some encoders have no pooler: their first token ([CLS]) stands for the text.
        return self.text_proj(hidden[:, 0] if pooled is None else pooled), self.text_proj(hidden)

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text embeds depend on."""
        pooler = getattr(self.chinese_encoder, "pooler", None)
        return [] if pooler is None else list(pooler.parameters())


def _local_first(load: Any, source: str, *, cache_dir: Any, local_files_only: bool) -> nn.Module:
    """`load` from local files; from the network only where that fails and is allowed."""
    folder = _local_folder(source, cache_dir)
    attempts = [] if folder is None else [folder]
    if not (local_files_only or Path(source).is_dir() or _hub_is_offline()):
        attempts.append(source)
    failure: Exception = FileNotFoundError("not in the cache, and the network is not to be used")
    for place in attempts:
        try:
            encoder: nn.Module = load(place, cache_dir=cache_dir, local_files_only=place == folder)
            return encoder
        except _IncompleteWeights as error:
            raise ValueError(str(error)) from error
        except (
            Exception
        ) as error:  # the hub client and transformers raise many kinds, none of them a contract
            failure = error
    reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
    raise ValueError(
        f"Chinese text encoder '{source}' cannot be loaded ({reason}): fetch config.json, vocab.txt and the "
        f"weights of https://huggingface.co/{source} into a folder and give it with --pretrained_text FOLDER"
    ) from failure


def _local_folder(source: str, cache_dir: Any) -> str | None:
    """The folder itself, or the one in the hub's cache that an earlier download left.

    The cache is read directly: the hub client opens connections even when told to use local files only.
    """
    if Path(source).is_dir():
        return source
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", cache_dir=cache_dir)
    return str(Path(found).parent) if isinstance(found, str) else None


class _IncompleteWeights(Exception):
    pass


def _hub_is_offline() -> bool:
    switches = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in switches)


def _random_bert(source: str, **options: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    model: nn.Module = AutoModel.from_config(AutoConfig.from_pretrained(source, **options))
    return model.float()


def _pretrained_bert(source: str, **options: Any) -> nn.Module:
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(source, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    absent = [name for name in missing if not name.startswith("pooler.")]
    if absent:
        raise _IncompleteWeights(
            f"{source}: {len(absent)} weights of its own architecture are not in its weight file, "
            f"first {', '.join(absent[:3])}; give a complete model with --pretrained_text"
        )
    if missing:
        _log.warning("%s has no pooler weights; they start from random values", source)
    encoder: nn.Module = model
    return encoder.float()
