"""The similarity head: from features of texts and videos to a matrix of similarities.

Training, evaluation in tiles and search all call a head through this one class. `modules/heads/registry.py`
is the table of heads.

Shapes: n texts, v videos, W words, F frames, D joint width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Rows = Mapping[str, Tensor]  # features by name; the first axis of each is the texts or the videos
TEXT_KEYS = ("text", "words", "word_mask")
VIDEO_KEYS = ("video", "frames", "frame_mask")
MOST_NUMBERS = 1 << 26  # of one tensor while scores are computed: 256 MB in float32


@dataclass(frozen=True)
class HeadOptions:
    """The settings of all heads, under the names of their flags."""

    head: str = "hmmc"
    use_frame_fea: bool = False
    top_frames: int = 3
    wti_layers: int = 2
    xpool_heads: int = 1
    head_padding: str = "left_out"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> HeadOptions:
        """Those of `settings` that are of heads; what is absent, as in settings of older runs, is default."""
        names = [item.name for item in dataclasses.fields(cls)]
        return cls(**{name: settings[name] for name in names if name in settings})


@dataclass(frozen=True)
class Term:
    """What one loss of training matches: `similarity` [..., N, N], text by video, positives on its diagonal.

    `real` bool [..., N] is False for videos that are padding in this term; None: all are real.
    """

    similarity: Tensor
    real: Tensor | None = None


class SimilarityHead(nn.Module):
    """The similarity of every text with every video.

    Features have these names: `text` [n, D], `words` [n, W, D], `word_mask` bool [n, W]; `video` [v, D],
    `frames` [v, F, D], `frame_mask` bool [v, F]. Masks are True on real words and frames; an absent mask
    means that all are real. Nothing is normalised: a head does that itself. Similarities are float32 or
    better, also where autocast is on.

    A subclass writes `keys`, `score` and, for what it computes of each text or video alone, `prepare_text`
    and `prepare_video`. Its similarity must be proportional to the scale. `width` is D.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    """The children of this module that have weights: a checkpoint is recognised by these names."""
    attended_frames: ClassVar[bool] = True
    """Whether `frames` are those after the temporal transformer, where there is one."""
    is_of_cosines: ClassVar[bool] = False
    """Whether the similarity is a sum of cosines of `text` with `video` and `frames`. Search computes such a
    sum itself, from unit vectors; other heads score the best candidates in a second stage."""
    reads_padding: bool = False
    """Whether padding changes the similarity: then texts keep all their padding."""
    terms: tuple[str, ...] = ("VTM",)
    """The names of the losses of training; each has a `term`."""

    def __init__(self, options: HeadOptions, width: int) -> None:
        super().__init__()
        self.options = options
        self.width = width

    def keys(self) -> frozenset[str]:
        """The names of the features that this head reads, of `TEXT_KEYS` and `VIDEO_KEYS`."""
        raise NotImplementedError

    def reads(self, name: str) -> bool:
        """Whether this head reads the feature `name`."""
        return name in self.keys()

    def prepare_text(self, text: Rows, scale: float | Tensor) -> dict[str, Tensor]:
        """What `score` needs of the texts, row by row; it holds the factor `scale`."""
        raise NotImplementedError

    def prepare_video(self, video: Rows) -> dict[str, Tensor]:
        """What `score` needs of the videos, video by video. Evaluation computes it once for many texts."""
        raise NotImplementedError

    def score(self, text: Rows, video: Rows) -> Tensor:
        """The similarity [n, v] of prepared texts and videos."""
        raise NotImplementedError

    def numbers_per_pair(self, *, words: int, frames: int) -> int:
        """The size of the largest tensor of `score`, divided by n x v."""
        return 1

    def forward(self, text: Rows, video: Rows, *, scale: float | Tensor = 1.0) -> Tensor:
        """The similarity [n, v], times `scale`."""
        with without_autocast(text):
            return self.score(self.prepare_text(text, scale), self.prepare_video(video))

    def term(self, name: str, text: Rows, video: Rows, *, scale: float | Tensor) -> Term:
        """What the loss `name` of training matches."""
        assert name in self.terms, name
        return Term(self(text, video, scale=scale))

    def term_keys(self, name: str) -> frozenset[str]:
        """The features that `term` reads."""
        return self.keys()

    def has_type(self, dtype: torch.dtype) -> bool:
        """Whether all weights are of this type."""
        return all(weight.dtype == dtype for weight in self.parameters())

    def pooled_text(self, text: Rows) -> Tensor:
        """One vector [n, D] a text, whose cosines with `video` are near the similarity: search proposes
        candidates by it."""
        return text["text"]


def some_real(mask: Tensor | None) -> Tensor | None:
    """`mask` [n, P], in which rows without anything real are all real: a softmax over nothing is NaN."""
    return None if mask is None else mask | ~mask.any(dim=1, keepdim=True)


def without_autocast(rows: Rows) -> torch.autocast:
    """A context without autocast on the device of `rows`: similarities need more digits than half
    precision has."""
    return torch.autocast(next(iter(rows.values())).device.type, enabled=False)


def in_chunks(score: Callable[[Rows, Rows], Tensor], text: Rows, video: Rows, *, numbers: int) -> Tensor:
    """`score` of all texts, as many at once as keep `numbers` for each pair below `MOST_NUMBERS` in total.

    With gradient, chunks are computed again in the backward pass, so that memory stays bounded there too.
    """
    texts, videos = (len(next(iter(rows.values()))) for rows in (text, video))
    step = max(1, MOST_NUMBERS // max(1, numbers * videos))
    if step >= texts:
        return score(text, video)
    parts = []
    for start in range(0, texts, step):
        chunk = {name: rows[start : start + step] for name, rows in text.items()}
        if torch.is_grad_enabled():
            parts.append(checkpoint(score, chunk, video, use_reentrant=False))
        else:
            parts.append(score(chunk, video))
    return torch.cat(parts)
