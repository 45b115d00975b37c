"""Evaluation: every rank encodes its share of a split, then ranks are counted (METHOD 6).

N captions, V videos, F frames, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from engine.distributed import World
from engine.features import Features, check_features
from engine.log import RunLog
from engine.metrics import all_metrics
from engine.ranking import Rankings, rank
from engine.trainer import autocast, to_device
from modules.dual_encoder import DualEncoder


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on one split. The loaders yield this rank's contiguous share, without repeats."""

    videos: DataLoader
    captions: DataLoader
    video_of_caption: np.ndarray
    world: World
    log: RunLog
    use_frame_fea: bool
    max_frames: int
    top_frames: int
    logit_scale: float
    precision: str = "fp32"

    def evaluate(self, model: DualEncoder) -> dict[str, float]:
        """All metrics of `engine.metrics`, the same on every rank. Leaves the model in its mode."""
        was_training = model.training
        model.eval()
        try:
            return all_metrics(self.rankings(self.encode(model)))
        finally:
            model.train(was_training)

    @torch.inference_mode()
    def encode(self, model: DualEncoder) -> Features:
        """Features of the whole split on every rank; each video and each caption is encoded once."""
        video, frames, masks, text = [], [], [], []
        for batch in self._batches(self.videos, "encoding videos"):
            with autocast(self.precision, self.world.device):
                v, f = model.encode_video(batch["frames"], batch["frame_mask"])
            video.append(v.float())
            if self.use_frame_fea:
                frames.append(f.float())
                masks.append(batch["frame_mask"])
        for batch in self._batches(self.captions, "encoding captions"):
            with autocast(self.precision, self.world.device):
                t = model.encode_text(batch["text_ids"], batch["text_mask"])
            text.append(t.float())
        width = _width(model)
        gather = self.world.gather_rows
        device = self.world.device
        rows = _rows(video, (0, width), device)
        if not self.use_frame_fea:
            return Features(gather(_rows(text, (0, width), device)), gather(rows), None, None)
        length = self.max_frames
        mask = _rows([m.to(torch.uint8) for m in masks], (0, length), device, dtype=torch.uint8)
        return Features(
            text=gather(_rows(text, (0, width), device)),
            video=gather(rows),
            frames=gather(_rows(frames, (0, length, width), device)),
            frame_mask=gather(mask).bool(),
        )

    def _batches(self, loader: DataLoader, what: str) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.log.progress(loader, total=len(loader), what=what):
            yield to_device(batch, self.world.device)

    def rankings(self, features: Features) -> Rankings:
        """Ranks of all queries; what is odd about the features is logged. Collective."""
        for remark in check_features(features, self.video_of_caption):
            self.log.warning(remark)
        return rank(
            features,
            self.video_of_caption,
            world=self.world,
            top_frames=self.top_frames,
            logit_scale=self.logit_scale,
        )


def _rows(
    pieces: list[torch.Tensor],
    empty: tuple[int, ...],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The pieces in one tensor; an empty one of the right shape where this rank's share is empty."""
    return torch.cat(pieces) if pieces else torch.zeros(empty, dtype=dtype, device=device)


def _width(model: DualEncoder) -> int:
    return int(model.text_encoder.embed_dim)  # type: ignore[arg-type]
