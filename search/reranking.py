"""The second stage of a search with a head that compares more than one vector of each text and video.

The first stage ranks all candidates by cosines of pooled vectors (`scoring.py`); this one scores the best of
them with the head itself, as in evaluation. C candidates, W words, F frames, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from modules.heads.head import SimilarityHead
from search.rows import FeatureRows, float32

RERANKED = 400  # candidates that the head scores: WTI takes 0.08 s for them on one CPU core, X-Pool 0.14 s
_AT_ONCE = 100


class HeadScorer:
    """The head's similarity of one query with rows of an index.

    `text` holds the query's features, as `SimilarityHead` names them, one row each. A query that is no single
    text is one vector [D]: `of_vector`.
    """

    def __init__(self, head: SimilarityHead, text: Mapping[str, Tensor]) -> None:
        self._head = head
        self._text = text

    @classmethod
    def of_vector(cls, head: SimilarityHead, vector: np.ndarray, device: torch.device) -> HeadScorer:
        """For a picture, a clip or a sum of queries: the vector is the text and its only word."""
        row = torch.from_numpy(vector).float().to(device)[None]
        return cls(head, {"text": row, "words": row[:, None]})

    @torch.inference_mode()
    def __call__(self, features: FeatureRows, rows: np.ndarray) -> np.ndarray:
        """Similarities float32 [C] of the rows [C]."""
        device = self._text["text"].device
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            frames = features.raw_frames(part)
            video = {"video": float32(features.video[part]), "frames": frames, "frame_mask": frames.any(-1)}
            on_device = {name: torch.from_numpy(array).to(device) for name, array in video.items()}
            parts.append(self._head(self._text, on_device)[0].cpu().numpy())
        return np.concatenate(parts)
