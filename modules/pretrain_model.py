"""Pre-training: query encoders, momentum key encoders, queues and the four losses (METHOD section 4).

Shapes: B clips of this rank, F frames, W words, D joint width, K queue, M masked words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.contrastive import BatchKeys, Negatives
from modules.dual_encoder import DualEncoder
from modules.masked_lm import IGNORED_LABEL, MaskedLMHead, masked_lm_loss
from modules.matching import frame_adjacency_matching, queue_frame_text_matching, queue_video_text_matching
from modules.momentum import FeatureQueue, momentum_copy, momentum_update
from modules.projector import Projector
from modules.retrieval_model import with_total

VIDEO_QUEUE = "queue_v_cross_ng"
TITLE_QUEUE = "queue_title_cross_ng"
TAG_QUEUE = "queue_tag_cross_ng"
FRAME_QUEUE = "queue_frame_cross_ng"
PROJECTION_QUEUE = "queue_frame_proj_ng"


@dataclass(frozen=True)
class Branch:
    """What one branch, query or key, makes of a batch.

    `video` [B, D]; `frames` [B, F, D]; `projected` [B, F, D], with FAM only: predictions u of the query
    branch, projections p_k of the key branch; `texts` by the name of their queue, [B, D] each: the title and,
    if there is one, the tag.
    """

    video: Tensor
    frames: Tensor
    projected: Tensor | None
    texts: dict[str, Tensor]


class PretrainModel(DualEncoder):
    """Momentum contrast between videos, frames and texts, plus masked words.

    Losses by name: FAM (neighbouring frames), VTM (video-text), FTM (frame-text, with `use_frame_fea`), MLM
    (masked words). One of weight 0 is neither computed nor given parts of its own, and what nothing else
    would train is frozen.
    State names are the published ones, without `t_projector[_k]`, which enter no loss.
    `in_batch_negatives` (an ablation) contrasts with the other clips of the step instead of the queues,
    which are kept up all the same.
    """

    def __init__(
        self,
        visual_encoder: nn.Module,
        text_encoder: nn.Module,
        *,
        max_frames: int,
        use_frame_fea: bool,
        weight_FAM: float = 0.05,
        weight_VTM: float = 0.45,
        weight_FTM: float = 0.45,
        weight_MLM: float = 0.05,
        queue_size: int = 1024,
        momentum: float = 0.99,
        temperature: float = 0.07,
        projector_width: int = 4096,
        projector_layers: int = 2,
        predictor_layers: int = 2,
        in_batch_negatives: bool = False,
    ) -> None:
        super().__init__(visual_encoder, text_encoder)
        self.in_batch_negatives = in_batch_negatives
        self.momentum = momentum
        self.temperature = temperature
        self.weights = {
            "FAM": weight_FAM,
            "VTM": weight_VTM,
            "FTM": weight_FTM if use_frame_fea else 0.0,
            "MLM": weight_MLM,
        }
        if not any(self.weights.values()):
            raise ValueError(
                "every loss has weight 0: give FAM, VTM or MLM a weight, or FTM one with --use_frame_fea"
            )
        dim = int(visual_encoder.embed_dim)  # type: ignore[arg-type]
        if self.weights["FAM"]:
            self.v_projector = Projector(dim, hidden_width=projector_width, num_layers=projector_layers)
            self.v_predictor = Projector(dim, hidden_width=projector_width, num_layers=predictor_layers)
        if self.weights["MLM"]:
            self.cls = MaskedLMHead(dim, vocab_size=int(text_encoder.vocab_size))  # type: ignore[arg-type]
        self._freeze_untrained()
        self._build_key_branch()
        self.queue = FeatureQueue(self, size=queue_size, dim=dim, widths=self._queue_widths(max_frames))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (with gradient) and the losses by name, this rank's share of the mean over ranks.

        Reads `frames`, `text_ids`, `text_mask`, with MLM `text_mlm_ids` and `text_mlm_labels`; where present
        `frame_mask` and the same keys with `tag` for `text`. While training, the key branch moves before the
        keys are computed, and the keys enter the queues after the losses.
        """
        query = self._query_branch(batch)
        if self.training:
            self._move_key_branch()
        key = self._key_branch(batch)
        losses = self._losses(batch, query, key)
        if self.training:
            self._enqueue(key, batch.get("frame_mask"))
        return with_total(losses, self.weights)

    def _losses(self, batch: Mapping[str, Tensor], query: Branch, key: Branch) -> dict[str, Tensor]:
        mask = batch.get("frame_mask")
        losses: dict[str, Tensor] = {}
        if self.weights["FAM"]:
            losses["FAM"] = self._fam(query, key, mask)
        if self.weights["VTM"]:
            losses["VTM"] = self._vtm(query, key)
        if self.weights["FTM"]:
            losses["FTM"] = self._ftm(query, key, mask)
        if self.weights["MLM"]:
            losses["MLM"] = self._mlm(batch)
        return losses

    def _fam(self, query: Branch, key: Branch, mask: Tensor | None) -> Tensor:
        assert query.projected is not None and key.projected is not None
        return frame_adjacency_matching(
            query.projected,
            key.projected,
            queue=self._negatives(PROJECTION_QUEUE, key.projected),
            temperature=self.temperature,
            frame_mask=mask,
        )

    def _vtm(self, query: Branch, key: Branch) -> Tensor:
        video_queue = self._negatives(VIDEO_QUEUE, key.video)
        terms = [
            queue_video_text_matching(
                query.video,
                text,
                key.video,
                key.texts[name],
                video_queue=video_queue,
                text_queue=self._negatives(name, key.texts[name]),
                temperature=self.temperature,
            )
            for name, text in query.texts.items()
        ]
        return torch.stack(terms).mean()

    def _ftm(self, query: Branch, key: Branch, mask: Tensor | None) -> Tensor:
        frame_queue = self._negatives(FRAME_QUEUE, _without_padding(key.frames, mask))
        terms = [
            queue_frame_text_matching(
                query.frames,
                text,
                key.frames,
                key.texts[name],
                frame_queue=frame_queue,
                text_queue=self._negatives(name, key.texts[name]),
                temperature=self.temperature,
                frame_mask=mask,
            )
            for name, text in query.texts.items()
        ]
        return torch.stack(terms).mean()

    def _negatives(self, queue_name: str, keys: Tensor) -> Negatives:
        """What a loss contrasts with: the queue of that name, or this step's `keys` of the other clips."""
        return BatchKeys.of(keys) if self.in_batch_negatives else self.queue.snapshot(queue_name)

    def _mlm(self, batch: Mapping[str, Tensor]) -> Tensor:
        terms = []
        for kind in ("text", "tag") if "tag_ids" in batch else ("text",):
            labels = batch[f"{kind}_mlm_labels"]
            _, hidden = self.text_encoder(batch[f"{kind}_mlm_ids"], batch[f"{kind}_mask"])
            # Logits over the vocabulary only where a word is to be guessed: the others would fill the memory.
            masked = labels != IGNORED_LABEL
            terms.append(masked_lm_loss(self.cls(hidden[masked]), labels[masked]))
        return torch.stack(terms).mean()

    def _query_branch(self, batch: Mapping[str, Tensor]) -> Branch:
        mask = batch.get("frame_mask")
        video, frames = self.encode_video(batch["frames"], mask)
        projected = None
        if self.weights["FAM"]:
            projected = _on_real_frames(nn.Sequential(self.v_projector, self.v_predictor), frames, mask)
        return Branch(video, frames, projected, self._encode_texts(self.text_encoder, batch))

    @torch.no_grad()
    def _key_branch(self, batch: Mapping[str, Tensor]) -> Branch:
        mask = batch.get("frame_mask")
        video, frames = self.visual_encoder_k(batch["frames"], mask)
        projected = _on_real_frames(self.v_projector_k, frames, mask) if self.weights["FAM"] else None
        return Branch(video, frames, projected, self._encode_texts(self.text_encoder_k, batch))

    def _encode_texts(self, encoder: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self._matches_texts():
            return {}
        texts = {TITLE_QUEUE: encoder(batch["text_ids"], batch.get("text_mask"))[0]}
        if "tag_ids" in batch:
            texts[TAG_QUEUE] = encoder(batch["tag_ids"], batch.get("tag_mask"))[0]
        return texts

    def _enqueue(self, key: Branch, mask: Tensor | None) -> None:
        keys = {VIDEO_QUEUE: key.video, FRAME_QUEUE: _without_padding(key.frames, mask), **key.texts}
        if key.projected is not None:
            keys[PROJECTION_QUEUE] = _without_padding(key.projected, mask)
        self.queue.push({name: values for name, values in keys.items() if name in self.queue})

    def _build_key_branch(self) -> None:
        self.visual_encoder_k = momentum_copy(self.visual_encoder)
        self.text_encoder_k = momentum_copy(self.text_encoder)
        if self.weights["FAM"]:
            self.v_projector_k = momentum_copy(self.v_projector)

    def _move_key_branch(self) -> None:
        for key_module, query_module in self._momentum_pairs():
            momentum_update(key_module, query_module, momentum=self.momentum)

    def _momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.visual_encoder_k, self.visual_encoder),
            (self.text_encoder_k, self.text_encoder),
        ]
        if self.weights["FAM"]:
            pairs.append((self.v_projector_k, self.v_projector))
        return pairs

    def _matches_texts(self) -> bool:
        return bool(self.weights["VTM"] or self.weights["FTM"])

    def _queue_widths(self, max_frames: int) -> dict[str, int]:
        widths = {VIDEO_QUEUE: 1}
        if self.weights["FAM"]:
            widths[PROJECTION_QUEUE] = max_frames
        if self.weights["FTM"]:
            widths[FRAME_QUEUE] = max_frames
        if self._matches_texts():
            widths |= {TITLE_QUEUE: 1, TAG_QUEUE: 1}
        return widths

    def _freeze_untrained(self) -> None:
        """Parameters that no loss reaches would make DistributedDataParallel wait for their gradients."""
        untrained: list[nn.Parameter] = []
        if not self.weights["VTM"]:
            untrained += self.visual_encoder.temporal_parameters()  # type: ignore[operator]
        if not self._matches_texts():
            whole = self.text_encoder.parameters
            untrained += self.text_encoder.pooler_parameters() if self.weights["MLM"] else whole()  # type: ignore[operator]
            if not self.weights["FAM"]:
                untrained += self.visual_encoder.parameters()
        for parameter in untrained:
            parameter.requires_grad_(False)


def _on_real_frames(head: nn.Module, frames: Tensor, mask: Tensor | None) -> Tensor:
    """`head` on [B, F, D] row by row; padding stays out of its batch statistics and becomes zeros."""
    if mask is None or bool(mask.all()):
        rows: Tensor = head(frames.flatten(0, 1))
        return rows.unflatten(0, frames.shape[:2])
    rows = head(frames[mask])
    return rows.new_zeros(frames.shape).masked_scatter(mask.unsqueeze(-1), rows)


def _without_padding(frame_keys: Tensor, mask: Tensor | None) -> Tensor:
    """Padded frames as zeros, which the queue takes for "no key"."""
    return frame_keys if mask is None else frame_keys.masked_fill(~mask.unsqueeze(-1), 0.0)
