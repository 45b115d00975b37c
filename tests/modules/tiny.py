"""Small models and batches, equal on every call."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.backbones.bilingual import BilingualTextEncoder
from modules.backbones.clip_towers import build_clip, clip_embed_dim
from modules.backbones.text_encoder import ChineseTextEncoder, ClipTextEncoder
from modules.heads.head import HeadOptions
from modules.heads.registry import build_head, head_class
from modules.pretrain_model import PretrainModel
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder
from tests.device import DEVICE

CLIP_CONFIG = str(Path(__file__).parent / "tiny_clip.json")
FRAMES, WORDS, VOCAB = 4, 7, 99
NO_LOSS = {"weight_FAM": 0.0, "weight_VTM": 0.0, "weight_FTM": 0.0, "weight_MLM": 0.0}


def encoders(*, use_temp: bool = True, attended_frames: bool = False) -> tuple[VideoEncoder, ClipTextEncoder]:
    torch.manual_seed(0)
    clip: Any = build_clip(CLIP_CONFIG)
    width = clip_embed_dim(clip)
    visual = VideoEncoder(
        clip.visual,
        embed_dim=width,
        use_temp=use_temp,
        attended_frames=attended_frames,
        temporal_layers=1,
        temporal_heads=2,
    )
    return visual.to(DEVICE), ClipTextEncoder(clip).to(DEVICE)


def bilingual_encoders(*, dropout: float = 0.0) -> tuple[VideoEncoder, BilingualTextEncoder]:
    from transformers import BertConfig

    visual, english = encoders()
    small: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "vocab_size": VOCAB, "max_position_embeddings": 16}
    small |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with tempfile.TemporaryDirectory() as folder:
        BertConfig(**small).save_pretrained(folder)
        chinese = ChineseTextEncoder(folder, embed_dim=visual.embed_dim, pretrained=False)
    return visual, BilingualTextEncoder(english, chinese).to(DEVICE)


def bilingual_model(**options: Any) -> RetrievalModel:
    return RetrievalModel(
        *bilingual_encoders(), **{"use_frame_fea": True, "logit_scale": 5.0, **options}
    ).train()


def bilingual_pretrain_model(**options: Any) -> PretrainModel:
    options = {"queue_size": 6, "projector_width": 24, "max_frames": FRAMES, "use_frame_fea": True, **options}
    model = PretrainModel(*bilingual_encoders(), **{"weight_MLM": 0.0, **options}).to(DEVICE)
    change_momentum_encoders(model)
    return model.train()


def pretrain_model(**options: Any) -> PretrainModel:
    options = {"queue_size": 6, "projector_width": 24, "max_frames": FRAMES, "use_frame_fea": True, **options}
    model = PretrainModel(*encoders(), **options).to(DEVICE)
    change_momentum_encoders(model)
    return model.train()


def retrieval_model(*, head: str = "hmmc", **options: Any) -> RetrievalModel:
    """With the head of that name, without dropout."""
    options = {"use_frame_fea": True, "logit_scale": 5.0, **options}
    visual, text = encoders(attended_frames=head_class(head).attended_frames)
    built = build_head(HeadOptions(head=head, use_frame_fea=options["use_frame_fea"]), visual.embed_dim)
    for module in built.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return RetrievalModel(visual, text, head=built.to(DEVICE), **options).train()


def change_momentum_encoders(model: PretrainModel) -> None:
    """Make their weights differ from the trained ones, as after some steps."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "_k." in name:
            parameter.data.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))


def batch(clips: int = 4, *, padded: bool = False, tags: bool = False, seed: int = 1) -> dict[str, Tensor]:
    """Clips with texts that have 2, 0, 1 and 1 masked words; `padded`: with 4, 2, 1 and 3 real frames."""
    draw = torch.Generator().manual_seed(seed)
    result = {"frames": torch.randint(0, 256, (clips, FRAMES, 3, 32, 32), generator=draw, dtype=torch.uint8)}
    lengths = torch.tensor([4, 2, 1, 3] * clips)[:clips] if padded else torch.full((clips,), FRAMES)
    result["frame_mask"] = torch.arange(FRAMES) < lengths[:, None]
    for kind in ("text", "tag") if tags else ("text",):
        ids = torch.randint(1, VOCAB - 2, (clips, WORDS), generator=draw)
        ids[:, -1] = VOCAB - 1
        labels = torch.full_like(ids, -100)
        for clip, count in zip(range(clips), [2, 0, 1, 1] * clips, strict=False):
            labels[clip, 1 : 1 + count] = ids[clip, 1 : 1 + count]
        result |= {f"{kind}_ids": ids, f"{kind}_mask": torch.ones_like(ids)}
        result |= {f"{kind}_mlm_labels": labels, f"{kind}_mlm_ids": ids.masked_fill(labels != -100, 3)}
    return result


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(x: Tensor, y: Tensor) -> float:
    return float(nn.functional.cosine_similarity(x, y, dim=0))
