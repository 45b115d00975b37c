"""HMMC's similarity against a loop that follows its formula."""

from __future__ import annotations

import pytest
import torch

from modules.heads.hmmc import hmmc_similarity
from tests.modules.tiny import cosine, draw

TEXTS, VIDEOS, FRAMES, WIDTH, SCALE = 5, 4, 3, 8, 10.0
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize("top_frames", [1, 2, 3, 9])
def test_the_mean_over_the_best_real_frames_is_added(top_frames: int) -> None:
    text, video = draw(TEXTS, WIDTH), draw(VIDEOS, WIDTH, seed=1)
    frames = draw(VIDEOS, FRAMES, WIDTH, seed=2)
    similarity = hmmc_similarity(text, video, frames, MASK, top_frames=top_frames, logit_scale=SCALE)
    for n in range(TEXTS):
        for v in range(VIDEOS):
            scores = sorted(
                (SCALE * cosine(text[n], frames[v, i]) for i in range(FRAMES) if MASK[v, i]), reverse=True
            )[:top_frames]
            expected = SCALE * cosine(text[n], video[v]) + sum(scores) / len(scores)
            assert float(similarity[n, v]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_zero_features_give_finite_scores_and_a_mask_of_ones_changes_nothing() -> None:
    text, video, frames = draw(2, WIDTH), torch.zeros(VIDEOS, WIDTH), draw(VIDEOS, FRAMES, WIDTH)
    frames[1] = 0.0
    plain = hmmc_similarity(text, video, frames, top_frames=2, logit_scale=SCALE)
    assert torch.isfinite(plain).all()
    all_real = torch.ones(VIDEOS, FRAMES, dtype=torch.bool)
    masked = hmmc_similarity(text, video, frames, all_real, top_frames=2, logit_scale=SCALE)
    assert torch.allclose(plain, masked)
