"""Blockwise evaluation against the whole matrix, in any order, with gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine.evaluator
from engine.distributed import World
from engine.evaluator import Evaluator, Features
from engine.log import RunLog
from engine.metrics import retrieval_metrics
from modules.matching import retrieval_similarity

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


def whole_matrix(made: Features) -> np.ndarray:
    return retrieval_similarity(
        made.text, made.video, made.frames, made.frame_mask, top_frames=3, logit_scale=100.0
    ).numpy()


@pytest.mark.parametrize("with_frames", [True, False])
@pytest.mark.parametrize("block", [1, 150, 1 << 26])
def test_blocks_give_what_the_whole_matrix_gives(
    block: int, with_frames: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.evaluator, "BLOCK_SCORES", block)
    made = features(block % 7, with_frames=with_frames)
    owners = np.random.default_rng(0).permutation(np.arange(CAPTIONS) % VIDEOS)
    ours = evaluator(tmp_path, owners, with_frames=with_frames).metrics(made)
    assert ours == pytest.approx(retrieval_metrics(whole_matrix(made), owners))


def test_a_video_without_captions_is_a_candidate_but_no_query(tmp_path: Path) -> None:
    made = features(1, with_frames=True)
    owners = np.arange(CAPTIONS) % (VIDEOS - 1) + 1  # video 0 has none
    ours = evaluator(tmp_path, owners).metrics(made)
    matrix = whole_matrix(made)
    t2v = retrieval_metrics(matrix[:, 1:], owners - 1)
    v2t_of_the_rest = {name: value for name, value in t2v.items() if name.startswith("v2t")}
    assert {name: ours[name] for name in v2t_of_the_rest} == pytest.approx(v2t_of_the_rest)
    assert ours["t2v/MeanR"] >= t2v["t2v/MeanR"]


@pytest.mark.parametrize("what", ["caption", "video"])
def test_features_that_are_not_finite_are_named(what: str, tmp_path: Path) -> None:
    made = features(2, with_frames=False)
    rows = made.text if what == "caption" else made.video
    rows[4, 0] = float("inf")
    with pytest.raises(ValueError, match=f"{what} 4 are not finite"):
        evaluator(tmp_path, np.arange(CAPTIONS) % VIDEOS, with_frames=False).metrics(made)
