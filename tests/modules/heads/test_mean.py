"""Mean pooling against a loop that follows its formula."""

from __future__ import annotations

import pytest
import torch

from modules.heads.head import HeadOptions
from modules.heads.mean import MeanHead
from modules.video_encoder import _mean_direction
from tests.modules.tiny import draw

TEXTS, VIDEOS, FRAMES, WIDTH = 3, 4, 3, 8
REAL = (3, 1, 2, 3)


def test_the_video_is_the_mean_of_the_unit_vectors_of_its_real_frames() -> None:
    text, frames = draw(TEXTS, WIDTH).double(), draw(VIDEOS, FRAMES, WIDTH, seed=1).double()
    mask = torch.arange(FRAMES) < torch.tensor(REAL)[:, None]
    head = MeanHead(HeadOptions(head="mean"), WIDTH)
    similarity = head({"text": text}, {"video": _mean_direction(frames, mask)}, scale=7.0)
    for n in range(TEXTS):
        for v in range(VIDEOS):
            units = [frame / frame.norm() for frame in frames[v, : REAL[v]]]
            mean = sum(units) / REAL[v]
            expected = 7.0 * float(text[n] @ mean) / float(text[n].norm() * mean.norm())
            assert float(similarity[n, v]) == pytest.approx(expected, abs=1e-12)
