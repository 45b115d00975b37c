"""Weighted token-wise interaction: every word with its best frame, every frame with its best word.

DRL (Wang et al. 2022, arXiv 2203.07111), without its channel decorrelation loss. Where code and paper differ:
the published code sets similarities with padding to 0 and takes the maxima over all places
(`--head_padding published`); here padding is left out, as in the definition.

Shapes: n texts, v videos, W words, F frames, D joint width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.heads.head import (
    HeadOptions,
    Rows,
    SimilarityHead,
    in_chunks,
    some_real,
    without_autocast,
)
from modules.numerics import at_least_float32, l2_normalize, lowest


class WtiHead(SimilarityHead):
    """S = (sum_p a_p max_q c_pq + sum_q b_q max_p c_pq) / 2, c the cosines of word p and frame q.

    a is the softmax over the words of a small network of each word feature (not of its unit vector), b the
    same over the frames.
    """

    parts = ("text_fc", "video_fc")

    def __init__(self, options: HeadOptions, width: int) -> None:
        super().__init__(options, width)
        self.reads_padding = options.head_padding == "published"
        self.text_fc = _weight_network(width, options.wti_layers)
        self.video_fc = _weight_network(width, options.wti_layers)

    def keys(self) -> frozenset[str]:
        return frozenset(("words", "word_mask", "frames", "frame_mask"))

    def prepare_text(self, text: Rows, scale: float | Tensor) -> dict[str, Tensor]:
        """`units` [n, W, D], times the scale; `weights` [n, W]; `mask` [n, W] if there is one."""
        return self._prepare(text, "words", "word_mask", self.text_fc, scale)

    def prepare_video(self, video: Rows) -> dict[str, Tensor]:
        """`units` [v, F, D]; `weights` [v, F]; `mask` [v, F] if there is one."""
        return self._prepare(video, "frames", "frame_mask", self.video_fc, 1.0)

    def score(self, text: Rows, video: Rows) -> Tensor:
        words, frames = text["units"].shape[1], video["units"].shape[1]
        return in_chunks(self._score, text, video, numbers=words * frames)

    def numbers_per_pair(self, *, words: int, frames: int) -> int:
        return words * frames

    def pooled_text(self, text: Rows) -> Tensor:
        """The weighted mean of the words' unit vectors."""
        with without_autocast(text):
            prepared = self.prepare_text(text, 1.0)
            return torch.einsum("nw,nwd->nd", prepared["weights"], prepared["units"])

    def _prepare(
        self, rows: Rows, name: str, mask_name: str, network: nn.Module, scale: float | Tensor
    ) -> dict[str, Tensor]:
        tokens = at_least_float32(rows[name])
        weights: Tensor = network(tokens).squeeze(-1)
        mask = some_real(rows.get(mask_name))
        if mask is not None:
            weights = weights.masked_fill(~mask, lowest(weights))
        prepared = {"units": scale * l2_normalize(tokens), "weights": weights.softmax(dim=-1)}
        return prepared if mask is None else prepared | {"mask": mask}

    def _score(self, text: Rows, video: Rows) -> Tensor:
        (texts, words, _), (videos, frames, _) = text["units"].shape, video["units"].shape
        # Videos come last: then both maxima are over rows, which is fast.
        by_frame = video["units"].transpose(0, 1).flatten(0, 1)
        cosines = (text["units"].flatten(0, 1) @ by_frame.T).view(texts, words, frames, videos)
        left_out = 0.0 if self.reads_padding else lowest(cosines)
        if "mask" in text:
            cosines = cosines.masked_fill_(~text["mask"][:, :, None, None], left_out)
        if "mask" in video:
            cosines = cosines.masked_fill_(~video["mask"].T, left_out)
        of_words, of_frames = cosines.amax(dim=2), cosines.amax(dim=1)
        # The maxima of padding have no weight, but the lowest number times a gradient is not finite.
        if "mask" in text:
            of_words = of_words.masked_fill(~text["mask"].unsqueeze(-1), 0.0)
        if "mask" in video:
            of_frames = of_frames.masked_fill(~video["mask"].T, 0.0)
        by_words = torch.einsum("nwv,nw->nv", of_words, text["weights"])
        return (by_words + torch.einsum("nfv,vf->nv", of_frames, video["weights"])) / 2


def _weight_network(width: int, layers: int) -> nn.Sequential:
    """`layers` linear layers with ReLU between them, from a feature to one number."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 1))
