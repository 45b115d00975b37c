"""The evaluator against a naive count of the full matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from engine.distributed.world import World
from engine.evaluation.encode import Evaluator
from engine.evaluation.features import Features
from engine.logs.run_log import RunLog
from tests.engine.evaluation.naive_ranking import full_matrix, naive_t2v, naive_v2t

CAPTIONS, VIDEOS, FRAMES, DIM = 23, 9, 5, 16


def random_split(seed: int, *, with_frames: bool) -> Features:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(VIDEOS, FRAMES, dtype=torch.bool)
    mask[0, 2:] = False
    return Features(
        text=torch.randn(CAPTIONS, DIM, generator=generator),
        video=torch.randn(VIDEOS, DIM, generator=generator),
        frames=torch.randn(VIDEOS, FRAMES, DIM, generator=generator) if with_frames else None,
        frame_mask=mask if with_frames else None,
    )


def evaluator(tmp_path: Path, owners: np.ndarray, *, with_frames: bool = True) -> Evaluator:
    nothing: Any = None
    return Evaluator(
        videos=nothing,
        captions=nothing,
        video_of_caption=owners,
        world=World(0, 1, torch.device("cpu")),
        log=RunLog(tmp_path, active=False),
        use_frame_fea=with_frames,
        max_frames=FRAMES,
        top_frames=3,
        logit_scale=100.0,
    )


def test_the_ranks_equal_those_of_the_full_matrix(tmp_path: Path) -> None:
    features = random_split(1, with_frames=True)
    owners = np.random.default_rng(0).permutation(np.arange(CAPTIONS) % VIDEOS)
    rankings = evaluator(tmp_path, owners).compute_metrics(features).rankings
    np.testing.assert_array_equal(rankings.t2v.expected, naive_t2v(full_matrix(features), owners))
    np.testing.assert_array_equal(rankings.v2t.expected, naive_v2t(full_matrix(features), owners))


@pytest.mark.parametrize("what", ["caption", "video"])
def test_features_that_are_not_finite_are_named(what: str, tmp_path: Path) -> None:
    features = random_split(2, with_frames=False)
    rows = features.text if what == "caption" else features.video
    rows[4, 0] = float("inf")
    with pytest.raises(UserError, match=rf"{what}s are not finite: 1 \(4\)"):
        evaluator(tmp_path, np.arange(CAPTIONS) % VIDEOS, with_frames=False).compute_metrics(features)
