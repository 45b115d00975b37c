"""Text towers of open_clip that are encoders of transformers: RoBERTa, XLM-R, mT5, NLLB.

Shapes: B texts, W words, H width of the encoder, D joint width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from common.errors import UserError
from modules.backbones.hub import load_local_first
from modules.backbones.layers import name_parts
from modules.backbones.text_encoder import checked_length, takes_4d_masks

CONTEXT_LENGTH = 77  # open_clip's models of this kind were trained with as many tokens
POOLERS = ("mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler")
_PROJECTIONS = (None, "linear", "mlp")
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_XLM_R = {**_ROBERTA, "model_type": "xlm-roberta", "vocab_size": 250002}
_MT5 = {"model_type": "mt5", "vocab_size": 250112, "feed_forward_proj": "gated-gelu", "d_kv": 64}
_NLLB = {"model_type": "m2m_100", "vocab_size": 256206, "d_model": 1024, "encoder_attention_heads": 16}
# The published configurations, so that weights of open_clip need no other file.
KNOWN: dict[str, dict[str, Any]] = {
    "roberta-base": {**_ROBERTA, "model_type": "roberta", "vocab_size": 50265},
    "xlm-roberta-base": _XLM_R,
    "xlm-roberta-large": {
        **_XLM_R,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "google/mt5-base": {**_MT5, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/mt5-xl": {**_MT5, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "facebook/nllb-200-distilled-600M": {**_NLLB, "encoder_layers": 12, "encoder_ffn_dim": 4096},
    "facebook/nllb-200-distilled-1.3B": {**_NLLB, "encoder_layers": 24, "encoder_ffn_dim": 8192},
}
# Names inside an encoder of transformers, whichever it has.
_EMBEDDINGS = ("embeddings", "embed_tokens", "embed_positions", "layernorm_embedding")
_LAYERS = ("encoder.layer.*", "block.*", "layers.*")


class HfTextEncoder(nn.Module):
    """An encoder of transformers, pooled and projected as open_clip does it, under open_clip's names.

    `text_cfg` is open_clip's: `hf_model_name`, a name of `KNOWN`, a folder or a name on the hub, of which
    only the configuration is read; `hf_pooler_type` and `hf_proj_type`. Weights are random.
    Raises `UserError`, beginning with `flag`, for a configuration that is absent or not possible.
    """

    reads_padding = False  # padding is masked

    def __init__(
        self,
        text_cfg: dict[str, Any],
        *,
        embed_dim: int,
        flag: str,
        cache_dir: str | None = None,
        allow_download: bool = True,
    ) -> None:
        super().__init__()
        self.pooler_type: str = text_cfg.get("hf_pooler_type", "mean_pooler")
        projection = text_cfg.get("hf_proj_type", "mlp")
        if self.pooler_type not in POOLERS or projection not in _PROJECTIONS:
            raise UserError(
                f"{flag}: its text tower has the pooler {self.pooler_type} and the projection {projection}; "
                f"possible are {', '.join(POOLERS)} and linear, mlp"
            )
        config = _encoder_config(str(text_cfg["hf_model_name"]), flag, cache_dir, allow_download)
        self.transformer = _encoder(config, pooling=self.pooler_type == "cls_pooler")
        width = int(getattr(config, "d_model", None) or config.hidden_size)
        self.proj = _projection(projection, width, embed_dim)
        self.embed_dim = embed_dim
        self.vocab_size = int(config.vocab_size)
        self.pad_id = int(config.pad_token_id or 0)
        self.context_length = int(text_cfg.get("context_length", CONTEXT_LENGTH))
        name_parts(
            self,
            embeddings=[f"transformer.{name}" for name in _EMBEDDINGS],
            layers=[f"transformer.{name}" for name in _LAYERS],
        )

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Text features [B, D] and word features [B, W, D] of `ids` [B, W]; `mask` [B, W] is 1 on tokens.

        Without a mask the tokens are the ids that are not padding.
        """
        checked_length(ids, self.context_length)
        mask = (ids != self.pad_id).long() if mask is None else mask
        attended = mask.bool()[:, None, None, :] if takes_4d_masks(self.transformer) else mask
        outputs = self.transformer(input_ids=ids, attention_mask=attended)
        hidden: Tensor = outputs.last_hidden_state
        return self.proj(self._pool(hidden, mask, getattr(outputs, "pooler_output", None))), self.proj(hidden)

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the text features depend on."""
        pooler = getattr(self.transformer, "pooler", None)
        return [] if pooler is None else list(pooler.parameters())

    def _pool(self, hidden: Tensor, mask: Tensor, pooled: Tensor | None) -> Tensor:
        if self.pooler_type == "mean_pooler":
            real = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        if self.pooler_type == "cls_pooler" and pooled is not None:
            return pooled
        return hidden[:, 0]


def _encoder_config(name: str, flag: str, cache_dir: str | None, allow_download: bool) -> Any:
    from transformers import AutoConfig

    if name in KNOWN:
        values = dict(KNOWN[name])
        return AutoConfig.for_model(values.pop("model_type"), **values)

    def load(place: str, local: bool) -> Any:
        return AutoConfig.from_pretrained(place, cache_dir=cache_dir, local_files_only=local)

    return load_local_first(
        load,
        name,
        what="text encoder",
        files=["config.json"],
        cache_dir=cache_dir,
        allow_download=allow_download,
        flag=flag,
        remedy_flag="hf_model_name of a JSON file for --clip_model, as",
    )


def _encoder(config: Any, *, pooling: bool) -> nn.Module:
    from transformers import AutoModel

    encoder: nn.Module
    if config.is_encoder_decoder:
        # The decoder is not used: build it with one layer only. Layers are never dropped, so that all ranks
        # train the same ones.
        for name in ("num_decoder_layers", "decoder_layers"):
            if hasattr(config, name):
                setattr(config, name, 1)
        if hasattr(config, "encoder_layerdrop"):
            config.encoder_layerdrop = 0.0
        encoder = AutoModel.from_config(config).encoder
    else:
        encoder = AutoModel.from_config(config, add_pooling_layer=pooling)
    return encoder.float()


def _projection(kind: str | None, width: int, embed_dim: int) -> nn.Module:
    if kind == "linear" or (kind is None and width != embed_dim):
        return nn.Linear(width, embed_dim, bias=False)
    if kind is None:
        return nn.Identity()
    hidden = (width + embed_dim) // 2
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False)
    )
