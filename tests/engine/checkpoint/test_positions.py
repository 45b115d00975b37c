"""Checkpoints with another number of positions than the model."""

from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from engine.checkpoint.weights import load_state
from modules.positions import resize_positions
from tests.modules import tiny

FRAMES = "visual_encoder.frame_position_embeddings.weight"
TOKENS = "text_encoder.positional_embedding"


def changed(name: str, rows: int) -> dict[str, torch.Tensor]:
    """The state of a model with `rows` positions."""
    state = dict(tiny.retrieval_model().state_dict())
    width = state[name].shape[1]
    state[name] = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    return state


def test_fewer_frames_in_the_checkpoint_are_interpolated_and_said() -> None:
    model, state = tiny.retrieval_model(), changed(FRAMES, 20)
    report = load_state(model, state, path="a.bin")
    line = "a.bin: temporal transformer: trained with positions of 20 frames; interpolated to 48"
    assert line in report.lines() and not report.misshapen
    assert torch.equal(model.state_dict()[FRAMES], resize_positions(state[FRAMES], 48))


def test_of_more_frames_the_first_are_used() -> None:
    model, state = tiny.retrieval_model(), changed(FRAMES, 64)
    report = load_state(model, state, path="a.bin")
    line = "a.bin: temporal transformer: trained with positions of 64 frames; the first 48 are used"
    assert line in report.lines()
    assert torch.equal(model.state_dict()[FRAMES], state[FRAMES][:48])


def test_tokens_keep_their_first_positions() -> None:
    model, state = tiny.retrieval_model(), changed(TOKENS, 6)
    report = load_state(model, state, path="a.bin")
    rows = len(model.state_dict()[TOKENS])
    assert (
        f"a.bin: text encoder: trained with positions of 6 tokens; interpolated to {rows}" in report.lines()
    )
    assert torch.equal(model.state_dict()[TOKENS][:5], state[TOKENS][:5])


def test_momentum_encoders_follow_without_a_second_line() -> None:
    model = tiny.pretrain_model()
    state = dict(model.state_dict())
    for name in (FRAMES, FRAMES.replace("encoder", "encoder_k")):
        state[name] = state[name][:20].clone()
    report = load_state(model, state, path="a.bin")
    assert len(report.resized) == 1 and not report.fresh


def test_another_width_is_still_an_error() -> None:
    state = changed(FRAMES, 48)
    state[FRAMES] = state[FRAMES][:, :8]
    with pytest.raises(UserError, match="does not fit this model.*1 of another shape"):
        load_state(tiny.retrieval_model(), state, path="a.bin")
