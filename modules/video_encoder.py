"""Frames to one feature a frame and one a video (Shen et al. 2023).

Shapes: B clips, F frames, S pixels a side, D joint width, N real frames of all clips together.
"""

from __future__ import annotations

from torch import Tensor, nn

from common.errors import UserError
from modules import host_masks
from modules.backbones.backbone import Preprocessing, tower_size
from modules.numerics import at_least_float32, l2_normalize, without_autocast
from modules.pixels import PixelNormalization
from modules.positions import FRAME_POSITIONS
from modules.transformer_block import TransformerBlock, new_block


class VideoEncoder(nn.Module):
    """An image tower on every frame, then with `use_temp` attention between the frames of a clip.

    `visual` maps pixels [N, 3, S, S] to features [N, embed_dim]; `preprocessing` has the mean and standard
    deviation of its pixels and their number S. None: CLIP's, and the size that `visual` itself knows.
    With `attended_frames` the frame embeds are those after this attention: heads that compare words with
    frames train it that way.
    """

    def __init__(
        self,
        visual: nn.Module,
        *,
        embed_dim: int,
        use_temp: bool,
        attended_frames: bool = False,
        temporal_layers: int = 4,
        temporal_heads: int | None = None,
        max_positions: int = FRAME_POSITIONS,
        position_std: float = 0.02,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        preprocessing = preprocessing or Preprocessing(tower_size(visual))
        self.visual = visual
        self.embed_dim = embed_dim
        self.max_positions = max_positions
        self.use_temp = use_temp
        self.image_size = preprocessing.size
        self.normalize = PixelNormalization(preprocessing.mean, preprocessing.std)
        self.attended_frames = attended_frames
        if use_temp:
            heads = temporal_heads or max(1, embed_dim // 64)
            self.temporal_transformer = TemporalTransformer(embed_dim, layers=temporal_layers, heads=heads)
            self.frame_position_embeddings = nn.Embedding(max_positions, embed_dim)
            nn.init.normal_(self.frame_position_embeddings.weight, std=position_std)

    def forward(self, frames: Tensor, frame_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Video embeds [B, D] and frame embeds [B, F, D], not normalised.

        `frames` [B, F, 3, S, S] are uint8 RGB, which is normalised here, or floats that are normalised
        already. `frame_mask` [B, F], best on the host, is True on real frames; the frame embeds of padding
        are zeros. Raises `UserError` where F is above `max_positions` and `use_temp` is on.
        """
        mask = host_masks.without_full_mask(frame_mask)
        frame_embeds = host_masks.on_real_frames(self.encode_frames, frames, mask)
        if mask is not None:
            mask = host_masks.on_device(mask, frame_embeds.device)
        return self.pool_frames(frame_embeds, mask)

    def pool_frames(self, frame_embeds: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `forward` returns, from the features [B, F, D] of single frames (`encode_frames`)."""
        attended = self._attend(frame_embeds, mask) if self.use_temp else frame_embeds
        video_embeds = _mean_direction(attended, mask)
        if not self.attended_frames:
            return video_embeds, frame_embeds
        return video_embeds, attended if mask is None else attended.masked_fill(~mask.unsqueeze(-1), 0.0)

    def train(self, mode: bool = True) -> VideoEncoder:
        """As of every module, but batch normalisation in the image tower always uses its stored statistics.

        Those of a batch of frames would depend on the rank, on padding and on the chunks of a gradient cache.
        """
        super().train(mode)
        for module in self.visual.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def temporal_parameters(self) -> list[nn.Parameter]:
        """Parameters that the frame embeds do not depend on."""
        if not self.use_temp or self.attended_frames:
            return []
        return [*self.temporal_transformer.parameters(), *self.frame_position_embeddings.parameters()]

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Features [N, D] of single frames [N, 3, S, S], not normalised."""
        embeds: Tensor = self.visual(self.normalize(frames))
        return embeds

    def _attend(self, frame_embeds: Tensor, frame_mask: Tensor | None) -> Tensor:
        count = frame_embeds.shape[1]
        if count > self.max_positions:
            raise UserError(
                f"--max_frames: {count} frames a clip, but the temporal transformer has {self.max_positions} "
                "positions"
            )
        positions = at_least_float32(self.frame_position_embeddings.weight[:count])
        attended: Tensor = self.temporal_transformer(frame_embeds + positions, frame_mask)
        return attended + frame_embeds


@without_autocast
def _mean_direction(frame_vectors: Tensor, frame_mask: Tensor | None) -> Tensor:
    """Mean of the real frames' unit vectors: [B, F, D] -> [B, D]."""
    directions = l2_normalize(frame_vectors)
    if frame_mask is None:
        return directions.mean(dim=1)
    real = directions.masked_fill(~frame_mask.unsqueeze(-1), 0.0)
    return real.sum(dim=1) / frame_mask.sum(dim=1, keepdim=True).clamp(min=1)


class TemporalTransformer(nn.Module):
    """Pre-norm residual blocks in which every frame of a clip attends to all its frames."""

    def __init__(self, width: int, *, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(new_block(width, heads=heads, eps=1e-12) for _ in range(layers))
        self._initialize(width, layers)

    def forward(self, frames: Tensor, frame_mask: Tensor | None = None) -> Tensor:
        """[B, F, D] -> [B, F, D]; no frame attends to padding."""
        seen = None
        if frame_mask is not None:
            # A clip without a real frame attends to its padding, because a softmax over nothing is NaN.
            seen = (frame_mask | ~frame_mask.any(dim=1, keepdim=True))[:, None, None, :]
        for block in self.resblocks:
            frames = block(frames, attn_mask=seen)
        return frames

    def _initialize(self, width: int, layers: int) -> None:
        """CLIP's scheme: output layers get smaller with depth, so that a block starts near the identity."""
        output_std = width**-0.5 * (2 * layers) ** -0.5
        for block in self.resblocks:
            assert isinstance(block, TransformerBlock)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=output_std)
            nn.init.normal_(block.mlp[0].weight, std=(2 * width) ** -0.5)  # type: ignore[arg-type]
            nn.init.normal_(block.mlp[2].weight, std=output_std)  # type: ignore[arg-type]
