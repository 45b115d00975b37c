"""The model of pre-training: encoders, momentum encoders, queues and four losses (Shen et al. 2023).

Shapes: B clips of this rank, F frames, W words, D joint width, K queue, M masked words.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.errors import UserError
from modules import host_masks
from modules.backbones.bilingual import encode_texts
from modules.dual_encoder import DualEncoder, Features
from modules.heads.head import HeadOptions, SimilarityHead
from modules.heads.hmmc import HmmcHead
from modules.losses.contrastive import BatchKeys, Negatives
from modules.losses.duplicates import find_duplicates, rows_of_this_rank
from modules.losses.masked_lm import IGNORED_LABEL, MaskedLMHead, masked_lm_loss
from modules.losses.matching import (
    frame_adjacency_matching,
    queue_frame_text_matching,
    queue_video_text_matching,
)
from modules.momentum import FeatureQueue, momentum_copy, momentum_update
from modules.projector import Projector
from modules.retrieval_model import with_total

VIDEO_QUEUE = "queue_v_cross_ng"
TITLE_QUEUE = "queue_title_cross_ng"
TAG_QUEUE = "queue_tag_cross_ng"
FRAME_QUEUE = "queue_frame_cross_ng"
PROJECTION_QUEUE = "queue_frame_proj_ng"

# The kinds of text, and the queue of each.
TEXTS = {"text": TITLE_QUEUE, "tag": TAG_QUEUE}

DuplicateMasks = Mapping[str, Tensor | None]  # by kind of text, [B, N]


class PretrainModel(DualEncoder):
    """Momentum contrast between videos, frames and texts, plus prediction of masked words.

    Losses by name: FAM (neighbouring frames), VTM (video-text), FTM (frame-text, with `use_frame_fea`), MLM
    (masked words). For a loss of weight 0 nothing is computed or built, and parameters that no loss trains
    are frozen. State names are the published ones, without `t_projector[_k]`, which no loss uses. With
    `in_batch_negatives` (an ablation) the negatives are the other clips of the batch; the queues are still
    filled. `mask_duplicates` excludes clips of the same video or with the same text from these negatives. It
    has no effect on queues, whose keys have no video number.
    """

    def __init__(
        self,
        visual_encoder: nn.Module,
        text_encoder: nn.Module,
        *,
        max_frames: int,
        use_frame_fea: bool,
        head: SimilarityHead | None = None,
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
        mask_duplicates: bool = False,
    ) -> None:
        """`head`: by default HMMC's, with `use_frame_fea`. Only evaluation uses it; the losses are HMMC's."""
        dim = int(visual_encoder.embed_dim)  # type: ignore[arg-type]
        super().__init__(
            visual_encoder, text_encoder, head or HmmcHead(HeadOptions(use_frame_fea=use_frame_fea), dim)
        )
        self.in_batch_negatives = in_batch_negatives
        self.mask_duplicates = mask_duplicates
        self.momentum = momentum
        self.temperature = temperature
        self.weights = {
            "FAM": weight_FAM,
            "VTM": weight_VTM,
            "FTM": weight_FTM if use_frame_fea else 0.0,
            "MLM": weight_MLM,
        }
        if not any(self.weights.values()):
            raise UserError(
                "every loss has weight 0: give FAM, VTM or MLM a weight, or FTM one with --use_frame_fea"
            )
        if self.weights["FAM"]:
            self.v_projector = Projector(dim, hidden_width=projector_width, num_layers=projector_layers)
            self.v_predictor = Projector(dim, hidden_width=projector_width, num_layers=predictor_layers)
        if self.weights["MLM"]:
            self.cls = MaskedLMHead(dim, vocab_size=int(text_encoder.vocab_size))  # type: ignore[arg-type]
        self._freeze_untrained()
        self._build_momentum_encoders()
        self.queue = FeatureQueue(self, size=queue_size, dim=dim, widths=self._queue_widths(max_frames))

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """Features `video` [B, D] and `frames` [B, F, D]; with VTM or FTM `text` and `tag` [B, D]; with MLM
        `text_words` and `tag_words` [M, D], the word features at the masked positions.

        Reads `frames`, `text_ids` and `text_mask`, with MLM also `text_mlm_ids` and `text_mlm_labels`; if
        present `frame_mask`, `language`, and the same entries with `tag` in place of `text`.
        """
        video, frames = self.encode_video(batch["frames"], batch.get("frame_mask"))
        features = {"video": video, "frames": frames, **self._encode_texts(self.text_encoder, batch)}
        if self.weights["MLM"]:
            for kind in self._texts_in(batch):
                ids, mask = batch[f"{kind}_mlm_ids"], batch[f"{kind}_mask"]
                _, hidden = encode_texts(self.text_encoder, ids, mask, batch.get("language"))
                # Only masked positions get logits over the vocabulary: logits of all positions need too much
                # memory.
                labels = batch[f"{kind}_mlm_labels"]
                features[f"{kind}_words"] = host_masks.select(hidden, labels, empty=IGNORED_LABEL)
        return features

    @torch.no_grad()
    def encode_keys(self, batch: Mapping[str, Tensor]) -> Features:
        """`video`, `frames`, `text` and `tag`, as in `encode`, from the momentum encoders."""
        video, frames = self.visual_encoder_k(batch["frames"], batch.get("frame_mask"))
        return {"video": video, "frames": frames, **self._encode_texts(self.text_encoder_k, batch)}

    def update_momentum_encoders(self) -> None:
        """Move the momentum encoders towards the trained ones; only in training mode."""
        if self.training:
            for key_module, query_module in self._momentum_pairs():
                momentum_update(key_module, query_module, momentum=self.momentum)

    def losses(self, features: Features, keys: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (with gradient) and the losses by name, which must be averaged over the ranks.

        In training mode the keys are pushed to the queues afterwards.
        """
        host_mask = batch.get("frame_mask")
        mask = host_masks.for_losses(host_mask, features["frames"].device)
        losses: dict[str, Tensor] = {}
        if self.weights["FAM"]:
            keys = {**keys, "projected": self._project_keys(keys["frames"], host_mask)}
            predictions = self._predict(features["frames"], host_mask)
            losses["FAM"] = self._fam(predictions, keys["projected"], mask, self._duplicate_mask(batch, None))
        duplicate_masks = {kind: self._duplicate_mask(batch, kind) for kind in TEXTS if kind in features}
        if self.weights["VTM"]:
            losses["VTM"] = self._vtm(features, keys, duplicate_masks)
        if self.weights["FTM"]:
            losses["FTM"] = self._ftm(features, keys, mask, duplicate_masks)
        if self.weights["MLM"]:
            losses["MLM"] = self._mlm(features, batch)
        if self.training:
            self._enqueue(keys, mask)
        return with_total(losses, self.weights)

    def log_scalars(self) -> dict[str, float]:
        """Scale of the logits, age of the oldest key in steps, share of the queue that this run filled."""
        return {
            "logit_scale": 1.0 / self.temperature,
            "queue_age": float(self.queue.age),
            "queue_filled": self.queue.filled,
        }

    def extra_state(self) -> dict[str, int]:
        """How much was pushed to the queues."""
        return {"queue_pushes": self.queue.pushes, "queue_clips": self.queue.clips}

    def load_extra_state(self, state: Mapping[str, int]) -> None:
        """Set the counters that `extra_state` returned."""
        self.queue.pushes = int(state["queue_pushes"])
        self.queue.clips = int(state["queue_clips"])

    def _predict(self, frames: Tensor, host_mask: Tensor | None) -> Tensor:
        predictor = nn.Sequential(self.v_projector, self.v_predictor)
        return host_masks.on_real_frames(predictor, frames, host_mask)

    @torch.no_grad()
    def _project_keys(self, frames: Tensor, host_mask: Tensor | None) -> Tensor:
        return host_masks.on_real_frames(self.v_projector_k, frames, host_mask)

    def _fam(
        self, predictions: Tensor, keys: Tensor, mask: Tensor | None, duplicate_mask: Tensor | None
    ) -> Tensor:
        return frame_adjacency_matching(
            predictions,
            keys,
            queue=_mask_duplicates(self._negatives(PROJECTION_QUEUE, keys), duplicate_mask),
            temperature=self.temperature,
            frame_mask=mask,
        )

    def _vtm(self, query: Features, keys: Features, duplicate_masks: DuplicateMasks) -> Tensor:
        video_queue = self._negatives(VIDEO_QUEUE, keys["video"])
        terms = [
            queue_video_text_matching(
                query["video"],
                query[kind],
                keys["video"],
                keys[kind],
                video_queue=_mask_duplicates(video_queue, duplicate_masks[kind]),
                text_queue=self._text_negatives(kind, keys, duplicate_masks),
                temperature=self.temperature,
            )
            for kind in TEXTS
            if kind in query
        ]
        return torch.stack(terms).mean()

    def _ftm(
        self, query: Features, keys: Features, mask: Tensor | None, duplicate_masks: DuplicateMasks
    ) -> Tensor:
        frame_queue = self._negatives(FRAME_QUEUE, _without_padding(keys["frames"], mask))
        terms = [
            queue_frame_text_matching(
                query["frames"],
                query[kind],
                keys["frames"],
                keys[kind],
                frame_queue=_mask_duplicates(frame_queue, duplicate_masks[kind]),
                text_queue=self._text_negatives(kind, keys, duplicate_masks),
                temperature=self.temperature,
                frame_mask=mask,
            )
            for kind in TEXTS
            if kind in query
        ]
        return torch.stack(terms).mean()

    def _text_negatives(self, kind: str, keys: Features, duplicate_masks: DuplicateMasks) -> Negatives:
        return _mask_duplicates(self._negatives(TEXTS[kind], keys[kind]), duplicate_masks[kind])

    def _negatives(self, queue_name: str, keys: Tensor) -> Negatives:
        """The queue of that name, or in-batch negatives made of `keys`."""
        return BatchKeys.of(keys) if self.in_batch_negatives else self.queue.snapshot(queue_name)

    def _duplicate_mask(self, batch: Mapping[str, Tensor], text: str | None) -> Tensor | None:
        """This rank's rows [B, N] of the duplicate mask; None where duplicates are not masked."""
        if not (self.mask_duplicates and self.in_batch_negatives):
            return None
        return rows_of_this_rank(find_duplicates(batch, text=text), len(batch["frames"]))

    def _mlm(self, query: Features, batch: Mapping[str, Tensor]) -> Tensor:
        terms = []
        for kind in self._texts_in(batch):
            labels = batch[f"{kind}_mlm_labels"]
            logits = self.cls(query[f"{kind}_words"])
            on_device = host_masks.on_device(labels, logits.device)
            terms.append(masked_lm_loss(logits, host_masks.select(on_device, labels, empty=IGNORED_LABEL)))
        return torch.stack(terms).mean()

    def _encode_texts(self, encoder: nn.Module, batch: Mapping[str, Tensor]) -> Features:
        if not self._matches_texts():
            return {}
        language = batch.get("language")
        return {
            kind: encode_texts(encoder, batch[f"{kind}_ids"], batch.get(f"{kind}_mask"), language)[0]
            for kind in self._texts_in(batch)
        }

    def _texts_in(self, batch: Mapping[str, Tensor]) -> list[str]:
        return [kind for kind in TEXTS if f"{kind}_ids" in batch]

    def _enqueue(self, keys: Features, mask: Tensor | None) -> None:
        pushed = {VIDEO_QUEUE: keys["video"], FRAME_QUEUE: _without_padding(keys["frames"], mask)}
        pushed |= {TEXTS[kind]: keys[kind] for kind in TEXTS if kind in keys}
        if "projected" in keys:
            pushed[PROJECTION_QUEUE] = _without_padding(keys["projected"], mask)
        self.queue.push({name: values for name, values in pushed.items() if name in self.queue})

    def _build_momentum_encoders(self) -> None:
        self.visual_encoder_k = momentum_copy(self.visual_encoder)
        self.text_encoder_k = momentum_copy(self.text_encoder)
        if self.weights["FAM"]:
            self.v_projector_k = momentum_copy(self.v_projector)

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
        """Freeze parameters that get no gradient: DistributedDataParallel would wait for it."""
        untrained: list[nn.Parameter] = []
        if not self.weights["VTM"]:
            untrained += self.visual_encoder.temporal_parameters()  # type: ignore[operator]
        if not self._matches_texts():
            text = self.text_encoder
            untrained += text.pooler_parameters() if self.weights["MLM"] else text.parameters()  # type: ignore[operator]
            if not self.weights["FAM"]:
                untrained += self.visual_encoder.parameters()
        for parameter in untrained:
            parameter.requires_grad_(False)


def _mask_duplicates(negatives: Negatives, duplicate_mask: Tensor | None) -> Negatives:
    """Exclude duplicates from in-batch negatives. A queue is unchanged: its keys have no video number."""
    return negatives.mask_duplicates(duplicate_mask) if isinstance(negatives, BatchKeys) else negatives


def _without_padding(frame_keys: Tensor, mask: Tensor | None) -> Tensor:
    """`frame_keys` with zeros in place of padded frames: zeros are not keys."""
    return frame_keys if mask is None else frame_keys.masked_fill(~mask.unsqueeze(-1), 0.0)
