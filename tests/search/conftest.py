"""A small untrained model with its config.json, and a folder of videos."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint.files import save_state
from engine.config import Config
from engine.logs.run_log import RunLog
from engine.model_setup import build_model
from search import Retriever
from tests.video.fixtures import write_video

SMALL_CLIP = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 220), "grey": (128, 128, 128)}


def write_model(folder: Path, *, seed: int = 0, **settings: object) -> Path:
    """An untrained checkpoint in `folder`, with config.json; the same for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / "small_clip.json"
    clip.write_text(json.dumps(SMALL_CLIP), encoding="utf-8")
    values = {"language": "english", "use_temp": True, "use_frame_fea": True, "temporal_layers": 1}
    values |= {"max_frames": 4, "top_frames": 2, "dataset": "msrvtt", **settings}
    config = Config(
        output_dir=str(folder), clip_model=str(clip), clip_weights="none", do_train=True, **values
    )
    torch.manual_seed(seed)
    model = build_model(config, RunLog(folder, active=False))
    save_state(model.state_dict(), folder / "pytorch_model.bin.0")
    config.save(folder / "config.json")
    assert dataclasses.asdict(config)["init_model"] is None
    return folder / "pytorch_model.bin.0"


def coloured(path: Path, colour: tuple[int, int, int], *, frames: int = 40) -> Path:
    """A video of one colour that slowly brightens."""

    def picture(number: int) -> np.ndarray:
        shade = np.clip(np.array(colour) * (0.5 + number / frames), 0, 255).astype(np.uint8)
        return np.broadcast_to(shade, (48, 64, 3)).copy()

    return write_video(path, frames=frames, size=(64, 48), picture=picture)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def retriever(checkpoint: Path) -> Retriever:
    return Retriever.from_checkpoint(checkpoint, device="cpu")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for name, colour in COLOURS.items():
        coloured(folder / ("more" if name == "grey" else "") / f"{name}.mp4", colour)
    (folder / "notes.txt").write_text("no video", encoding="utf-8")
    return folder
