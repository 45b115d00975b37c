"""Mean pooling: the cosine of the text with the mean of the frames' unit vectors.

CLIP4Clip (Luo et al. 2021, arXiv 2104.08860): meanP, and with the temporal transformer seqTransf. The paper
takes the mean of the raw frame features; its code, and this one, the mean of their unit vectors.

Shapes: n texts, v videos, D joint width.
"""

from __future__ import annotations

from torch import Tensor

from modules.heads.head import Rows, SimilarityHead
from modules.numerics import l2_normalize


class MeanHead(SimilarityHead):
    """s cos(text, video). `video` is the mean of the unit vectors, as the video encoder gives it."""

    is_of_cosines = True

    def keys(self) -> frozenset[str]:
        return frozenset(("text", "video"))

    def prepare_text(self, text: Rows, scale: float | Tensor) -> dict[str, Tensor]:
        return {"text": scale * l2_normalize(text["text"])}

    def prepare_video(self, video: Rows) -> dict[str, Tensor]:
        return {"video": l2_normalize(video["video"])}

    def score(self, text: Rows, video: Rows) -> Tensor:
        return text["text"] @ video["video"].T
