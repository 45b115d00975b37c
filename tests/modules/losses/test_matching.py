"""Losses against loops that follow their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.losses import matching
from tests.device import DEVICE
from tests.modules.hmmc_terms import frame_text_matching, video_text_matching
from tests.modules.tiny import cosine, draw

N, FRAMES, WIDTH, SCALE, TAU = 4, 3, 8, 10.0, 0.07
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)


def cross_entropy(positive: float, others: list[float]) -> float:
    return float(torch.tensor([positive, *others]).logsumexp(0)) - positive


def queue_term(x: Tensor, y: Tensor, queue: Tensor) -> float:
    others = [cosine(x, key) / TAU for key in queue.T if key.any()]
    return cross_entropy(cosine(x, y) / TAU, others)


def test_frame_text_matching_without_padding_is_the_mean_of_the_positions() -> None:
    text, frames = draw(N, WIDTH), draw(N, FRAMES, WIDTH, seed=1)
    one_position = [video_text_matching(text, frames[:, i], logit_scale=SCALE) for i in range(FRAMES)]
    expected = torch.stack(one_position).mean()
    assert torch.allclose(frame_text_matching(text, frames, logit_scale=SCALE), expected)
    everything = torch.ones(N, FRAMES, dtype=torch.bool)
    masked = frame_text_matching(text, frames, everything, logit_scale=SCALE)
    assert torch.allclose(masked, expected)


def test_frame_text_matching_with_padding() -> None:
    text, frames = draw(N, WIDTH), draw(N, FRAMES, WIDTH, seed=1)
    terms = []
    for i in range(FRAMES):
        for n in range(N):
            if not MASK[n, i]:
                continue
            positive = SCALE * cosine(text[n], frames[n, i])
            rival_frames = [SCALE * cosine(text[n], frames[m, i]) for m in range(N) if m != n and MASK[m, i]]
            rival_texts = [SCALE * cosine(text[m], frames[n, i]) for m in range(N) if m != n]
            terms.append(cross_entropy(positive, rival_frames) + cross_entropy(positive, rival_texts))
    ours = frame_text_matching(text, frames, MASK, logit_scale=SCALE)
    assert float(ours) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_frame_text_matching_of_one_real_frame_is_its_term() -> None:
    text, frames = draw(2, WIDTH), draw(2, 1, WIDTH, seed=1)
    mask = torch.tensor([[False], [True]])
    positive, rival = (SCALE * cosine(text[n], frames[1, 0]) for n in (1, 0))
    ours = frame_text_matching(text, frames, mask, logit_scale=SCALE)
    assert float(ours) == pytest.approx(cross_entropy(positive, [rival]), rel=1e-5)


def test_queue_losses_follow_their_formulas_without_padding() -> None:
    video, text, video_key, text_key = (draw(N, WIDTH, seed=s) for s in range(4))
    frames, frame_keys = draw(N, FRAMES, WIDTH, seed=4), draw(N, FRAMES, WIDTH, seed=5)
    text_queue = F.normalize(draw(WIDTH, 6, seed=6), dim=0)
    frame_queue = F.normalize(draw(WIDTH, 18, seed=7), dim=0)
    frame_queue[:, [2, 5]] = 0.0  # padded frames of earlier clips

    ours = matching.queue_video_text_matching(
        video, text, video_key, text_key, video_queue=text_queue, text_queue=text_queue, temperature=TAU
    )
    both = [
        queue_term(video[n], text_key[n], text_queue) + queue_term(text[n], video_key[n], text_queue)
        for n in range(N)
    ]
    assert float(ours) == pytest.approx(sum(both) / N, rel=1e-5)

    ours = matching.queue_frame_text_matching(
        frames,
        text,
        frame_keys,
        text_key,
        frame_queue=frame_queue,
        text_queue=text_queue,
        temperature=TAU,
        frame_mask=MASK,
    )
    terms = [
        queue_term(text[n], frame_keys[n, i], frame_queue) + queue_term(frames[n, i], text_key[n], text_queue)
        for n in range(N)
        for i in range(FRAMES)
        if MASK[n, i]
    ]
    assert float(ours) == pytest.approx(sum(terms) / len(terms), rel=1e-5)

    ours = matching.frame_adjacency_matching(
        frames, frame_keys, queue=frame_queue, temperature=TAU, frame_mask=MASK
    )
    terms = [
        queue_term(frames[n, i], frame_keys[n, i + 1], frame_queue)
        + queue_term(frames[n, i + 1], frame_keys[n, i], frame_queue)
        for n in range(N)
        for i in range(FRAMES - 1)
        if MASK[n, i] and MASK[n, i + 1]
    ]
    assert float(ours) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_frame_adjacency_of_single_frames_is_zero() -> None:
    single = draw(N, 1, WIDTH).requires_grad_(True)
    loss = matching.frame_adjacency_matching(single, single.detach(), queue=draw(WIDTH, 4), temperature=TAU)
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_autocast_does_not_reach_the_similarities() -> None:
    text, video = draw(N, WIDTH), draw(N, WIDTH, seed=1)
    exact = video_text_matching(text, video, logit_scale=100.0)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        inside = video_text_matching(text, video, logit_scale=100.0)
    assert inside.dtype == torch.float32
    assert float(inside) == float(exact)
