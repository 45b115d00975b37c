"""Evaluation: every rank encodes its part of a split, then the metrics are computed.

N captions, V videos, W words, F frames, D width, B captions of a querybank.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from engine.distributed.device import BatchCopier, Pace
from engine.distributed.precision import autocast
from engine.distributed.sharding import full_tensor, is_sharded
from engine.distributed.world import World
from engine.evaluation.compute_metrics import Bank, SplitMetrics, compute_metrics
from engine.evaluation.features import Features, Names, check_features
from engine.evaluation.similarity import ScoreTiles
from engine.logs.run_log import RunLog
from modules.dual_encoder import DualEncoder
from modules.heads.head import SimilarityHead


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on one split. The loaders yield this rank's part: contiguous, without repeats."""

    videos: DataLoader
    captions: DataLoader
    video_of_caption: np.ndarray
    world: World
    log: RunLog
    max_frames: int
    logit_scale: float
    precision: str = "fp32"
    captions_text: Names | None = None  # for messages
    video_ids: Names | None = None

    def evaluate(self, model: DualEncoder) -> dict[str, float]:
        """The plain metrics (`metrics.all_metrics`), the same on every rank."""
        return self.compute_metrics(self.encode(model), self.head_of(model)).values

    def head_of(self, model: DualEncoder) -> SimilarityHead:
        """A copy of the head with full weights, in evaluation mode. Collective if they are sharded."""
        if any(map(is_sharded, model.head.parameters())):
            state = {name: full_tensor(tensor) for name, tensor in model.head.state_dict().items()}
            head = type(model.head)(model.head.options, model.head.width)
            head.load_state_dict(state, assign=True)
        else:
            head = copy.deepcopy(model.head)
        return head.to(self.world.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, model: DualEncoder, *, videos_of: Features | None = None) -> Features:
        """Features of the split, on every rank. Each video and each caption is encoded once.

        `videos_of`: features whose videos are taken, so that only captions are encoded. All methods leave the
        model in the mode, training or evaluation, that it was in.
        """
        if videos_of is not None:
            return replace(videos_of, **self.encode_texts(model, self.captions, "encoding captions"))
        videos, frames, masks = [], [], []
        with_frames = model.head.reads("frames")
        empty_passes = self._empty_passes(model, self.videos)
        with _evaluating(model):
            for batch in self._batches(self.videos, "encoding videos"):
                with self._autocast():
                    video, frame = model.encode_video(batch["frames"], batch["frame_mask"])
                videos.append(video.float())
                if with_frames:
                    frames.append(frame.float())
                    masks.append(batch["frame_mask"].to(self.world.device, torch.uint8, non_blocking=True))
            for _ in range(empty_passes):
                size = int(model.visual_encoder.image_size)  # type: ignore[arg-type]
                with self._autocast():
                    model.encode_video(self._zeros(1, self.max_frames, 3, size, size))
        texts = self.encode_texts(model, self.captions, "encoding captions")
        width, length = _width(model), self.max_frames
        all_videos = self._gather(videos, (0, width))
        if not with_frames:
            return Features(video=all_videos, **texts)
        all_masks = self._gather(masks, (0, length), dtype=torch.uint8).bool()
        all_frames = self._gather(frames, (0, length, width))
        return Features(video=all_videos, frames=all_frames, frame_mask=all_masks, **texts)

    @torch.inference_mode()
    def encode_texts(self, model: DualEncoder, texts: DataLoader, what: str) -> dict[str, torch.Tensor]:
        """`text` [N, D] and, if the head reads them, `words` and `word_mask`, as in `Features`.

        Of the texts of all ranks, on every rank; W is the length of the longest text. `what` labels the
        progress bar.
        """
        encoded, words, masks = [], [], []
        with_words = model.head.reads("words")
        empty_passes = self._empty_passes(model, texts)
        with _evaluating(model):
            for batch in self._batches(texts, what):
                with self._autocast():
                    ids, mask = batch["text_ids"], batch["text_mask"]
                    text, word = model.encode_words(ids, mask, *_language_in(batch))
                encoded.append(text.float())
                if with_words:
                    mask = batch["text_mask"].bool()
                    words.append(word.float().masked_fill(~mask.unsqueeze(-1), 0.0))
                    masks.append(mask.to(torch.uint8))
            for _ in range(empty_passes):
                with self._autocast():
                    model.encode_words(self._zeros(1, 1).long(), None, *_language_of(texts))
        width = _width(model)
        result = {"text": self._gather(encoded, (0, width))}
        if with_words:
            length = max(self.world.gather(_longest(masks, whole=model.head.reads_padding)))
            words = [F.pad(part, (0, 0, 0, length - part.shape[1])) for part in words]  # also cuts
            masks = [F.pad(part, (0, length - part.shape[1])) for part in masks]
            result["words"] = self._gather(words, (0, length, width))
            result["word_mask"] = self._gather(masks, (0, length), dtype=torch.uint8).bool()
        return result

    def _batches(self, loader: DataLoader, what: str) -> Iterator[dict[str, torch.Tensor]]:
        copy, pace = BatchCopier(self.world.device), Pace(self.world.device)
        for batch in self.log.progress(loader, total=len(loader), what=what):
            yield copy(batch)
            pace.batch_done()

    def _empty_passes(self, model: DualEncoder, loader: DataLoader) -> int:
        """Passes without data that this rank makes besides its batches. Collective if weights are sharded.

        Then every forward pass is collective: each rank makes as many as the one with the most batches.
        """
        if not any(map(is_sharded, model.parameters())):
            return 0
        return max(self.world.gather(len(loader))) - len(loader)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.uint8, device=self.world.device)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.precision, self.world.device)

    def _gather(
        self, batches: list[torch.Tensor], empty: tuple[int, ...], *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """The rows of all ranks. `empty` is the shape of this rank's part if it has no batches."""
        rows = torch.cat(batches) if batches else torch.zeros(empty, dtype=dtype, device=self.world.device)
        return self.world.gather_rows(rows)

    def tiles(self, features: Features, head: SimilarityHead) -> ScoreTiles:
        """The similarity of the split, in tiles."""
        return ScoreTiles(features, head, logit_scale=self.logit_scale)

    def compute_metrics(
        self,
        features: Features,
        head: SimilarityHead,
        *,
        resamples: int = 0,
        dsl_temperature: float | None = None,
        bank: Mapping[str, torch.Tensor] | None = None,
        qb_beta: float = 20.0,
    ) -> SplitMetrics:
        """Check the features, log remarks on them, and compute the metrics (`compute_metrics`). Collective.

        `bank` are training captions for querybank normalisation, as of `encode_texts`. Raises
        `UserError`, which names captions or videos, if the features cannot be ranked.
        """
        remarks = check_features(
            features, self.video_of_caption, captions=self.captions_text, video_ids=self.video_ids
        )
        for remark in remarks:
            self.log.warning(remark)
        return compute_metrics(
            self.tiles(features, head),
            self.video_of_caption,
            logit_scale=self.logit_scale,
            resamples=resamples,
            dsl_temperature=dsl_temperature,
            bank=None if bank is None else Bank(self.tiles(replace(features, **bank), head), beta=qb_beta),
            world=self.world,
        )


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and back into its mode afterwards, also after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _longest(masks: list[torch.Tensor], *, whole: bool) -> int:
    """W of the longest text of masks [B, W]; with `whole` that of the masks. 0 without any."""
    lengths = [0]
    for mask in masks:
        real = mask.any(dim=0).nonzero()
        lengths.append(mask.shape[1] if whole else int(real[-1]) + 1 if len(real) else 1)
    return max(lengths)


def _language_in(batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The languages [B] of a batch, if it says them."""
    return [batch["language"]] if "language" in batch else []


def _language_of(texts: DataLoader) -> list[torch.Tensor]:
    """The language [1] of all texts of a loader, if its batches say it."""
    number: int | None = getattr(texts.dataset, "language", None)
    return [] if number is None else [torch.tensor([number])]


def _width(model: DualEncoder) -> int:
    return int(model.text_encoder.embed_dim)  # type: ignore[arg-type]
