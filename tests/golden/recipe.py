"""Weights, inputs and models that the golden numbers were computed with.

`golden.json` and `golden.npz` hold the results of the published code.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.backbones.text_encoder import ChineseTextEncoder, ClipTextEncoder
from modules.pretrain_model import PretrainModel
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder
from tests.device import DEVICE

FOLDER = Path(__file__).parent
LANGUAGES = ("english", "chinese")
# Data sets of the pre-training numbers: does it have tags?
PRETRAIN_SETS = {"msrvtt": False, "bird": True}


@cache
def numbers() -> dict[str, Any]:
    """golden.json."""
    loaded: dict[str, Any] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
    return loaded


@cache
def arrays() -> dict[str, np.ndarray]:
    """golden.npz."""
    with np.load(FOLDER / "golden.npz") as archive:
        return dict(archive)


def array(name: str) -> Tensor:
    return torch.from_numpy(np.asarray(arrays()[name])).to(DEVICE)


def config() -> dict[str, Any]:
    sizes: dict[str, Any] = numbers()["config"]
    return sizes


def clip_json() -> dict[str, Any]:
    """The golden model's CLIP in open_clip's form."""
    sizes = config()
    vision = {
        "image_size": sizes["resolution"],
        "layers": sizes["layers"],
        "width": sizes["vision_width"],
        "head_width": 64,
        "patch_size": sizes["patch"],
    }
    text = {
        "context_length": sizes["context"],
        "vocab_size": sizes["clip_vocab"],
        "width": sizes["text_width"],
        "heads": sizes["text_width"] // 64,
        "layers": sizes["layers"],
    }
    return {"embed_dim": sizes["embed_dim"], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def weight(name: str, shape: list[int] | torch.Size) -> Tensor:
    """The golden value of the state entry `name`."""
    if name.endswith(("num_batches_tracked", "queue_ptr")):
        return torch.zeros(tuple(shape), dtype=torch.long)
    drawn = torch.from_numpy(_rng(name).standard_normal(tuple(shape), dtype=np.float32))
    if name.endswith("running_var"):
        return 1 + 0.1 * drawn.abs()
    if name.endswith("running_mean"):
        return 0.1 * drawn
    if name.startswith("queue_"):
        return drawn / drawn.norm(dim=0, keepdim=True)
    if drawn.dim() == 1:
        return 1 + 0.1 * drawn if name.endswith("weight") else 0.02 * drawn
    return drawn / float(np.sqrt(np.prod(shape[1:])))


def fill(model: nn.Module, names_and_shapes: dict[str, list[int]]) -> None:
    """Set every entry of the model to its golden value. All its names must be published ones."""
    names = model.state_dict()
    state = {name: weight(name, names_and_shapes[name]) for name in names if "position_ids" not in name}
    if "cls.bias" in state:
        state["cls.bias"] = state["cls.decoder.bias"]
    model.load_state_dict(state, strict=False)
    model.to(DEVICE)


def video() -> Tensor:
    sizes = config()
    shape = (sizes["batch"], sizes["frames"], 3, sizes["resolution"], sizes["resolution"])
    return torch.from_numpy(_rng("video").standard_normal(shape, dtype=np.float32)).to(DEVICE)


def encoders(language: str, folder: Path) -> tuple[VideoEncoder, nn.Module]:
    """Encoders of the golden sizes. Their configuration files are written to `folder`."""
    from modules.backbones.clip_towers import build_clip

    path = folder / "golden_clip.json"
    path.write_text(json.dumps(clip_json()), encoding="utf-8")
    clip: Any = build_clip(str(path))
    width = config()["embed_dim"]
    visual = VideoEncoder(clip.visual, embed_dim=width, use_temp=True)
    if language == "english":
        return visual, ClipTextEncoder(clip)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", **config()["bert"]}), encoding="utf-8"
    )
    return visual, ChineseTextEncoder(folder, embed_dim=width, pretrained=False)


def retrieval_model(language: str, folder: Path) -> RetrievalModel:
    model = RetrievalModel(*encoders(language, folder), use_frame_fea=True)
    fill(model, numbers()[f"{language}/ft/state"])
    return model.train()


def retrieval_batch(language: str) -> dict[str, Tensor]:
    return {
        "frames": video(),
        "text_ids": array(f"{language}/in/query_ids"),
        "text_mask": array(f"{language}/in/query_mask"),
    }


def pretrain_model(language: str, dataset: str, folder: Path, *, weight_MLM: float = 0.0) -> PretrainModel:
    sizes = config()
    model = PretrainModel(
        *encoders(language, folder),
        max_frames=sizes["frames"],
        use_frame_fea=True,
        weight_MLM=weight_MLM,
        queue_size=sizes["queue"],
    )
    fill(model, numbers()[f"{language}/pt/{dataset}/state"])
    return model.train()


def pretrain_batch(language: str, dataset: str) -> dict[str, Tensor]:
    inputs = {"text": "title", "tag": "tag"} if PRETRAIN_SETS[dataset] else {"text": "title"}
    batch = {"frames": video()}
    for ours, published in inputs.items():
        batch[f"{ours}_ids"] = array(f"{language}/in/{published}_ids")
        batch[f"{ours}_mask"] = array(f"{language}/in/{published}_mask")
    return batch


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
