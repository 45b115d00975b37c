"""The published way that the benchmark times computes what our model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.baseline_step import PlainModel, normalised
from modules.backbones.clip_towers import build_clip, clip_embed_dim
from modules.backbones.text_encoder import ClipTextEncoder
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder
from tests.modules import tiny

CONFIG = """{"embed_dim": 32, "quick_gelu": true,
 "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "head_width": 64, "patch_size": 16},
 "text_cfg": {"context_length": 12, "vocab_size": 99, "width": 64, "heads": 1, "layers": 2}}"""


def test_the_plain_model_gives_our_loss_and_features(tmp_path: Path) -> None:
    path = tmp_path / "clip.json"
    path.write_text(CONFIG, encoding="utf-8")
    torch.manual_seed(0)
    clip: Any = build_clip(str(path))
    plain = PlainModel(clip.state_dict())
    visual = VideoEncoder(clip.visual, embed_dim=clip_embed_dim(clip), use_temp=True)
    ours = RetrievalModel(visual, ClipTextEncoder(clip), use_frame_fea=True)
    for name in ("temporal_transformer", "frame_position_embeddings"):
        getattr(plain, name).load_state_dict(getattr(visual, name).state_dict())
    batch = tiny.batch()
    frames = normalised(batch["frames"])
    expected = *ours.encode_video(batch["frames"]), ours.encode_text(batch["text_ids"])
    video, features = plain.encode_video(frames)
    for one, other in zip((video, features, plain.encode_text(batch["text_ids"])), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain(frames, batch["text_ids"]), ours(batch)["loss"], rtol=1e-4, atol=1e-5)
