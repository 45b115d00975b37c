"""Evaluation: every rank encodes its share, similarity in blocks, ranks counted per block (METHOD 6).

N captions, V videos, F frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from engine.distributed import World
from engine.log import RunLog
from engine.metrics import caption_set_scores, ranks_of_targets, summarise
from engine.trainer import autocast, to_device
from modules.dual_encoder import DualEncoder
from modules.matching import retrieval_similarity

# Scores held at once, caption x video x frame: 2^26 float32 are 256 MiB.
BLOCK_SCORES = 1 << 26


@dataclass(frozen=True)
class Features:
    """What the encoders make of a split: text [N, D], video [V, D], frames [V, F, D] or None, mask [V, F]."""

    text: torch.Tensor
    video: torch.Tensor
    frames: torch.Tensor | None
    frame_mask: torch.Tensor | None


RankCounter = Callable[[Features, np.ndarray], np.ndarray]  # features and query numbers -> their ranks


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
            return self.metrics(self.encode(model))
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

    def metrics(self, features: Features) -> dict[str, float]:
        """Both directions. Each rank counts the ranks of its share of queries."""
        _refuse_non_finite(features)
        t2v = self._share(len(features.text), self._text_to_video, features)
        v2t = self._share(len(features.video), self._video_to_text, features)
        return {**summarise(t2v, direction="t2v"), **summarise(v2t[~np.isnan(v2t)], direction="v2t")}

    def _share(
        self, queries: int, count: Callable[[Features, np.ndarray], np.ndarray], features: Features
    ) -> np.ndarray:
        """Ranks of all queries: this rank's contiguous share in blocks, gathered from all ranks."""
        first, last = (queries * (self.world.rank + k) // self.world.size for k in (0, 1))
        per_query = max(len(features.video), len(features.text)) * (
            1 if features.frames is None else features.frames.shape[1]
        )
        size = max(1, BLOCK_SCORES // max(1, per_query))
        blocks = [count(features, np.arange(i, min(i + size, last))) for i in range(first, last, size)]
        ranks = np.concatenate(blocks) if blocks else np.empty(0)
        return self.world.gather_rows(torch.from_numpy(ranks).to(self.world.device)).cpu().numpy()

    def _text_to_video(self, features: Features, rows: np.ndarray) -> np.ndarray:
        scores = self._scores(features, captions=slice(int(rows[0]), int(rows[-1]) + 1), videos=slice(None))
        return ranks_of_targets(scores, self.video_of_caption[rows], queries=rows)

    def _video_to_text(self, features: Features, videos: np.ndarray) -> np.ndarray:
        """Rank of each video's own caption set among all sets; NaN for a video that has no caption."""
        scores = self._scores(
            features, captions=slice(None), videos=slice(int(videos[0]), int(videos[-1]) + 1)
        )
        sets, owners = caption_set_scores(scores.T, self.video_of_caption)
        own = np.searchsorted(owners, videos).clip(max=len(owners) - 1)
        has_captions = owners[own] == videos
        ranks = np.full(len(videos), np.nan)
        ranks[has_captions] = ranks_of_targets(
            sets[has_captions], own[has_captions], queries=videos[has_captions]
        )
        return ranks

    def _scores(self, features: Features, *, captions: slice, videos: slice) -> np.ndarray:
        frames, mask = features.frames, features.frame_mask
        block = retrieval_similarity(
            features.text[captions],
            features.video[videos],
            None if frames is None else frames[videos],
            None if mask is None else mask[videos],
            top_frames=self.top_frames,
            logit_scale=self.logit_scale,
        )
        return block.cpu().numpy()


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


def _refuse_non_finite(features: Features) -> None:
    for what, rows in (("caption", features.text), ("video", features.video)):
        bad = ~torch.isfinite(rows).all(dim=1)
        if bad.any():
            raise ValueError(
                f"features of {what} {int(bad.nonzero()[0])} are not finite: the model has diverged"
            )
