"""Blockwise evaluation against the whole matrix, in any order, with gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.distributed.world import World
from engine.evaluation.encode import Evaluator
from engine.evaluation.features import Features
from engine.logs.run_log import RunLog
from tests.engine.evaluation.naive_ranking import naive_t2v, naive_v2t, whole_matrix

CAPTIONS, VIDEOS, FRAMES, DIM = 23, 9, 5, 16


def features(seed: int, *, with_frames: bool) -> Features:
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


def test_the_figures_are_those_of_the_whole_matrix(tmp_path: Path) -> None:
    made = features(1, with_frames=True)
    owners = np.random.default_rng(0).permutation(np.arange(CAPTIONS) % VIDEOS)
    found = evaluator(tmp_path, owners).compute_metrics(made).rankings
    np.testing.assert_array_equal(found.t2v, naive_t2v(whole_matrix(made), owners))
    np.testing.assert_array_equal(found.v2t, naive_v2t(whole_matrix(made), owners))


@pytest.mark.parametrize("what", ["caption", "video"])
def test_features_that_are_not_finite_are_named(what: str, tmp_path: Path) -> None:
    made = features(2, with_frames=False)
    rows = made.text if what == "caption" else made.video
    rows[4, 0] = float("inf")
    with pytest.raises(ValueError, match=rf"{what}s are not finite: 1 \(4\)"):
        evaluator(tmp_path, np.arange(CAPTIONS) % VIDEOS, with_frames=False).compute_metrics(made)
