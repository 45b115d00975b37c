from __future__ import annotations

from typing import Any

import pytest
import torch

from common.errors import UserError
from modules.numerics import l2_normalize
from modules.pixels import PIXEL_MEAN, PIXEL_STD
from modules.video_encoder import TemporalTransformer, VideoEncoder
from tests.device import DEVICE
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
    encoder = VideoEncoder(tiny.encoders()[0].visual, embed_dim=32, use_temp=True, max_positions=3).to(DEVICE)
    frames = tiny.batch()["frames"]
    with pytest.raises(UserError, match="4 frames a clip.*3 positions"):
        encoder(frames)
    assert encoder(frames[:, :3])[1].shape == (4, 3, 32)


def test_heads_are_64_wide_but_at_least_one() -> None:
    visual = tiny.encoders()[0].visual
    for width, heads in ((512, 8), (256, 4), (32, 1)):
        encoder = VideoEncoder(visual, embed_dim=width, use_temp=True, temporal_layers=1)
        assert encoder.temporal_transformer.resblocks[0].attn.num_heads == heads  # type: ignore[union-attr]
    assert not any("mean" in name or "std" in name for name in encoder.state_dict())


def test_published_sizes_and_initial_values() -> None:
    """CLIP's scheme; the standard deviations are measured on thousands of weights."""
    torch.manual_seed(0)
    width = 64
    encoder = VideoEncoder(tiny.encoders()[0].visual, embed_dim=width, use_temp=True)
    transformer, positions = encoder.temporal_transformer, encoder.frame_position_embeddings.weight
    assert len(transformer.resblocks) == 4 and list(positions.shape) == [48, width]
    assert float(positions.detach().std()) == pytest.approx(0.02, rel=0.05)
    names = {
        "attn.in_proj_weight": width**-0.5,
        "attn.out_proj.weight": width**-0.5 / 8**0.5,
        "mlp.c_fc.weight": (2 * width) ** -0.5,
        "mlp.c_proj.weight": width**-0.5 / 8**0.5,
    }
    for block in transformer.resblocks:
        assert block.mlp.c_fc.out_features == 4 * width  # type: ignore[union-attr]
        for name, std in names.items():
            weight = block.get_parameter(name)
            assert float(weight.detach().std()) == pytest.approx(std, rel=0.05), name
            assert abs(float(weight.detach().mean())) < 0.1 * std, name


def test_the_temporal_transformer_is_pre_norm_attention_written_out() -> None:
    """One head, one block, float64: x + attention(norm(x)), then x + MLP(norm(x)) with CLIP's GELU."""
    torch.manual_seed(1)
    width = 8
    transformer = TemporalTransformer(width, layers=1, heads=1).double().to(DEVICE)
    for parameter in transformer.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    block: Any = transformer.resblocks[0]
    attn, mlp = block.attn, block.mlp
    frames = 1e-4 * torch.randn(3, 5, width, dtype=torch.float64)  # so small that the eps of the norm counts
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)

    def norm(x: torch.Tensor, layer: Any) -> torch.Tensor:
        deviation = (x.var(-1, keepdim=True, unbiased=False) + 1e-12).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias

    def written_out(clip: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (norm(clip, block.ln_1) @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(
            3, dim=-1
        )
        weights = (queries @ keys[real].T / width**0.5).softmax(-1)
        x = clip + weights @ values[real] @ attn.out_proj.weight.T + attn.out_proj.bias
        hidden = norm(x, block.ln_2) @ mlp.c_fc.weight.T + mlp.c_fc.bias
        return x + (hidden * torch.sigmoid(1.702 * hidden)) @ mlp.c_proj.weight.T + mlp.c_proj.bias

    with torch.no_grad():
        masked, unmasked = transformer(frames, mask), transformer(frames)
    everything = torch.ones(5, dtype=torch.bool)
    for clip, real in enumerate((mask[0], mask[1], everything)):  # without a real frame: its padding counts
        torch.testing.assert_close(masked[clip], written_out(frames[clip], real))
        torch.testing.assert_close(unmasked[clip], written_out(frames[clip], everything))


def test_positions_and_frames_are_added_around_the_temporal_transformer() -> None:
    encoder = tiny.encoders()[0].eval()
    with torch.no_grad():
        for block in encoder.temporal_transformer.resblocks:  # a block that adds 1
            for parameter in block.parameters():
                parameter.zero_()
            block.mlp.c_proj.bias.fill_(1.0)  # type: ignore[union-attr,operator]
        video, frames = encoder(tiny.batch()["frames"])
        positions = encoder.frame_position_embeddings.weight[: tiny.FRAMES]
        expected = l2_normalize(2 * frames + positions + 1).mean(1)
    assert torch.allclose(video, expected, atol=1e-6)


def test_a_clip_with_one_real_frame_has_that_frames_direction() -> None:
    encoder = tiny.retrieval_model().visual_encoder
    batch = tiny.batch(2)
    mask = torch.zeros(batch["frames"].shape[:2], dtype=torch.bool)
    mask[:, 0] = True
    with torch.no_grad():
        video, frames = encoder(batch["frames"], mask)
        alone, _ = encoder(batch["frames"][:, :1])
    torch.testing.assert_close(video, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(video.norm(dim=-1), torch.ones(2, device=DEVICE), rtol=1e-5, atol=1e-6)
    assert not frames[:, 1:].any()
