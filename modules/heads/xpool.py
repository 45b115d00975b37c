"""Text-conditioned pooling: each text attends to the frames of each video.

X-Pool (Gorti et al. 2022, arXiv 2203.15086). As in the published code, projections have biases and start as
the identity, and texts and frames share one layer normalisation. The published code has no masks
(`--head_padding published`); here padded frames are left out.

Shapes: n texts, v videos, F frames, D joint width, H attention heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError
from modules.heads.head import HeadOptions, Rows, SimilarityHead, in_chunks, some_real
from modules.numerics import at_least_float32, l2_normalize, lowest

DROPOUT = 0.3  # after `fc` in training, as published


class XpoolHead(SimilarityHead):
    """S = cos(text, z), z = LN3(r + fc(r)), r = LN2(o(sum over frames of w v(f))).

    w is the softmax over the frames of q(t) . k(f) / sqrt(D / H), with t and f of LN1.
    """

    parts = ("q", "k", "v", "o", "fc", "ln1", "ln2", "ln3")

    def __init__(self, options: HeadOptions, width: int) -> None:
        super().__init__(options, width)
        if width % options.xpool_heads:
            raise UserError(
                f"--xpool_heads {options.xpool_heads}: must divide the joint width, which is {width}"
            )
        self.heads = options.xpool_heads
        self.reads_padding = options.head_padding == "published"
        self.q, self.k, self.v, self.o, self.fc = (_identity(width) for _ in range(5))
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def keys(self) -> frozenset[str]:
        return frozenset(("text", "frames", "frame_mask"))

    def prepare_text(self, text: Rows, scale: float | Tensor) -> dict[str, Tensor]:
        """`units` [n, D], times the scale; `queries` [n, D], times 1 / sqrt(D / H)."""
        vectors = at_least_float32(text["text"])
        queries = self.q(self.ln1(vectors)) * (self.width / self.heads) ** -0.5
        return {"units": scale * l2_normalize(vectors), "queries": queries}

    def prepare_video(self, video: Rows) -> dict[str, Tensor]:
        """`keys` [v, F, D]; `values` [v, F, H, D]; `mask` [v, F] if there is one.

        `o` is linear, so it is applied to the values of each frame, H at a time, and not to each pair.
        """
        frames = self.ln1(at_least_float32(video["frames"]))
        values = self.v(frames).unflatten(-1, (self.heads, -1))
        of_heads = self.o.weight.unflatten(1, (self.heads, -1))  # [D, H, D / H]
        prepared = {"keys": self.k(frames), "values": torch.einsum("vfhc,dhc->vfhd", values, of_heads)}
        mask = None if self.reads_padding else some_real(video.get("frame_mask"))
        return prepared if mask is None else prepared | {"mask": mask}

    def score(self, text: Rows, video: Rows) -> Tensor:
        return in_chunks(self._score, text, video, numbers=self.width)

    def numbers_per_pair(self, *, words: int, frames: int) -> int:
        return max(self.width, self.heads * frames)

    def pooled(self, text: Rows, video: Rows) -> Tensor:
        """z [v, n, D] of prepared texts and videos."""
        queries = text["queries"].unflatten(-1, (self.heads, -1))
        keys = video["keys"].unflatten(-1, (self.heads, -1))
        logits = torch.einsum("nhc,vfhc->vnhf", queries, keys)
        if "mask" in video:
            logits = logits.masked_fill(~video["mask"][:, None, None], lowest(logits))
        weights = logits.softmax(dim=-1)
        attended = torch.einsum("vnhf,vfhd->vnd", weights, video["values"]) + self.o.bias
        attended = self.ln2(attended)
        pooled: Tensor = self.ln3(attended + self.dropout(self.fc(attended)))
        return pooled

    def _score(self, text: Rows, video: Rows) -> Tensor:
        return torch.einsum("nd,vnd->nv", text["units"], l2_normalize(self.pooled(text, video)))


def _identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
