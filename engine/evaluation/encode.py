"""Evaluation: every rank encodes its share of a split, then ranks are counted (METHOD 6).

N captions, V videos, F frames, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader

from engine.distributed.device import autocast, to_device
from engine.distributed.world import World
from engine.evaluation.compute_metrics import Bank, SplitMetrics, compute_metrics
from engine.evaluation.features import Features, Names, check_features
from engine.evaluation.similarity import ScoreTiles
from engine.logs.run_log import RunLog
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
    captions_text: Names | None = None  # names in messages
    video_ids: Names | None = None

    def evaluate(self, model: DualEncoder) -> dict[str, float]:
        """The plain figures (`engine.evaluation.metrics.all_metrics`), the same on every rank."""
        return self.compute_metrics(self.encode(model)).values

    @torch.inference_mode()
    def encode(self, model: DualEncoder) -> Features:
        """Features of the whole split on every rank; each video and each caption is encoded once.

        Leaves the model in its mode, as all methods here do.
        """
        video, frames, masks = [], [], []
        with _evaluating(model):
            for batch in self._batches(self.videos, "encoding videos"):
                with autocast(self.precision, self.world.device):
                    v, f = model.encode_video(batch["frames"], batch["frame_mask"])
                video.append(v.float())
                if self.use_frame_fea:
                    frames.append(f.float())
                    masks.append(batch["frame_mask"].to(torch.uint8))
        text = self.encode_texts(model, self.captions, "encoding captions")
        width, length, device = _width(model), self.max_frames, self.world.device
        gather = self.world.gather_rows
        every_video = gather(_rows(video, (0, width), device))
        if not self.use_frame_fea:
            return Features(text, every_video)
        mask = gather(_rows(masks, (0, length), device, dtype=torch.uint8))
        return Features(text, every_video, gather(_rows(frames, (0, length, width), device)), mask.bool())

    @torch.inference_mode()
    def encode_texts(self, model: DualEncoder, texts: DataLoader, what: str) -> torch.Tensor:
        """Text features [n, D] of all ranks' shares, on every rank."""
        rows = []
        with _evaluating(model):
            for batch in self._batches(texts, what):
                with autocast(self.precision, self.world.device):
                    encoded = model.encode_text(batch["text_ids"], batch["text_mask"])
                rows.append(encoded.float())
        return self.world.gather_rows(_rows(rows, (0, _width(model)), self.world.device))

    def _batches(self, loader: DataLoader, what: str) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.log.progress(loader, total=len(loader), what=what):
            yield to_device(batch, self.world.device)

    def tiles(self, features: Features) -> ScoreTiles:
        """The similarity, tile by tile."""
        return ScoreTiles(features, top_frames=self.top_frames, logit_scale=self.logit_scale)

    def compute_metrics(
        self,
        features: Features,
        *,
        resamples: int = 0,
        dsl_temperature: float | None = None,
        bank: torch.Tensor | None = None,
        qb_beta: float = 20.0,
    ) -> SplitMetrics:
        """Rank and count (`compute_metrics.measure`); what is odd about the features is logged. Collective.

        `bank` [B, D] are training captions for querybank normalisation. Raises `UserError` on features that
        cannot be ranked, with names.
        """
        remarks = check_features(
            features, self.video_of_caption, captions=self.captions_text, video_ids=self.video_ids
        )
        for remark in remarks:
            self.log.warning(remark)
        return compute_metrics(
            self.tiles(features),
            self.video_of_caption,
            logit_scale=self.logit_scale,
            resamples=resamples,
            dsl_temperature=dsl_temperature,
            bank=None if bank is None else Bank(self.tiles(replace(features, text=bank)), beta=qb_beta),
            world=self.world,
        )


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards as it was, whatever happens."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


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
