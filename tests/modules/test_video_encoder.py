from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from modules.numerics import l2_normalize
from modules.video_encoder import PIXEL_MEAN, PIXEL_STD, VideoEncoder
from tests.modules import tiny


def test_bytes_are_normalised_and_floats_are_not() -> None:
    encoder = tiny.encoders()[0].eval()
    frames = tiny.batch()["frames"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    by_hand = (frames.float() / 255 - mean) / std
    with torch.no_grad():
        for ours, expected in zip(encoder(frames), encoder(by_hand), strict=True):
            assert torch.allclose(ours, expected, atol=1e-6)


def test_without_temporal_parts_the_video_is_the_mean_direction_of_its_frames() -> None:
    encoder = tiny.encoders(use_temp=False)[0].eval()
    assert all(name.startswith("visual.") for name in encoder.state_dict())
    assert encoder.temporal_parameters() == []
    with torch.no_grad():
        video, frames = encoder(tiny.batch()["frames"])
    assert video.shape == (4, 32) and frames.shape == (4, tiny.FRAMES, 32)
    assert torch.allclose(video, l2_normalize(frames).mean(1))


def test_temporal_parts_see_the_order_of_frames() -> None:
    plain, temporal = tiny.encoders(use_temp=False)[0], tiny.encoders()[0]
    frames = tiny.batch()["frames"]
    with torch.no_grad():
        assert torch.allclose(plain(frames)[0], plain(frames.flip(1))[0], atol=1e-6)
        assert not torch.allclose(temporal(frames)[0], temporal(frames.flip(1))[0], atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_content_of_padding_does_not_matter(training: bool) -> None:
    encoder = tiny.encoders()[0].train(training)
    batch = tiny.batch(padded=True)
    frames, mask = batch["frames"], batch["frame_mask"]
    other = torch.where(mask[:, :, None, None, None], frames, 255 - frames)
    with torch.no_grad():
        video, embeds = encoder(frames, mask)
        other_video, other_embeds = encoder(other, mask)
        alone, alone_embeds = encoder(frames[1:2, :2])  # the second clip has 2 real frames
    assert torch.equal(video, other_video) and torch.equal(embeds, other_embeds)
    assert not embeds[~mask].any()
    assert torch.allclose(video[1:2], alone, atol=1e-6)
    assert torch.allclose(embeds[1:2, :2], alone_embeds, atol=1e-6)


def test_a_mask_of_ones_is_no_mask() -> None:
    encoder = tiny.encoders()[0]
    batch = tiny.batch()
    with torch.no_grad():
        for masked, plain in zip(
            encoder(batch["frames"], batch["frame_mask"]), encoder(batch["frames"]), strict=True
        ):
            assert torch.allclose(masked, plain, atol=1e-6)


@pytest.mark.parametrize("real", [0, 1])
def test_gradients_stay_finite_with_one_real_frame_or_none(real: int) -> None:
    encoder = tiny.encoders()[0]
    batch = tiny.batch()
    mask = batch["frame_mask"].clone()
    mask[0, real:] = False
    video, frames = encoder(batch["frames"], mask)
    (video.sum() + frames.sum()).backward()
    assert torch.isfinite(video).all()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_frames_without_any_feature_give_finite_gradients() -> None:
    encoder = tiny.encoders()[0]
    with torch.no_grad():
        encoder.visual.proj.zero_()  # type: ignore[union-attr,operator]
        for parameter in encoder.temporal_parameters():
            parameter.zero_()
    video, _ = encoder(tiny.batch()["frames"])
    video.sum().backward()
    assert torch.isfinite(video).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


def test_more_frames_than_positions_are_refused() -> None:
    encoder = VideoEncoder(tiny.encoders()[0].visual, embed_dim=32, use_temp=True, max_positions=3)
    with pytest.raises(UserError, match="4 frames a clip.*3 positions"):
        encoder(tiny.batch()["frames"])


def test_heads_are_64_wide_but_at_least_one() -> None:
    visual = tiny.encoders()[0].visual
    for width, heads in ((512, 8), (256, 4), (32, 1)):
        encoder = VideoEncoder(visual, embed_dim=width, use_temp=True, temporal_layers=1)
        assert encoder.temporal_transformer.resblocks[0].attn.num_heads == heads  # type: ignore[union-attr]
    assert not {"pixel_mean", "pixel_std"} & set(encoder.state_dict())
