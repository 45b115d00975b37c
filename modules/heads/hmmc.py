"""HMMC's similarity of texts and videos: the video plus its best frames (Shen et al. 2023).

Shapes: N texts, V videos, F frames, D joint width.
Masks [V, F] are True on real frames; None means that all are real. All results are float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.heads.head import HeadOptions, Rows, SimilarityHead, Term
from modules.heads.head import without_autocast as no_autocast_on
from modules.numerics import l2_normalize, lowest, without_autocast


class HmmcHead(SimilarityHead):
    """s cos(text, video), with `use_frame_fea` plus the mean over the `top_frames` best s cos(text, frame).

    It has no weights. Training does not match this sum but its parts: VTM texts with videos, FTM texts with
    the frames of each position.
    """

    attended_frames = False
    is_of_cosines = True

    def __init__(self, options: HeadOptions, width: int) -> None:
        super().__init__(options, width)
        self.use_frames, self.top_frames = options.use_frame_fea, options.top_frames
        self.terms = ("VTM", "FTM") if self.use_frames else ("VTM",)

    def keys(self) -> frozenset[str]:
        return frozenset(("text", "video", *(("frames", "frame_mask") if self.use_frames else ())))

    def prepare_text(self, text: Rows, scale: float | Tensor) -> dict[str, Tensor]:
        return {"text": scale * l2_normalize(text["text"])}

    def prepare_video(self, video: Rows) -> dict[str, Tensor]:
        """The frames come first, [F, v, D], as `similarity_of_unit_vectors` reads them."""
        prepared = {"video": l2_normalize(video["video"])}
        if self.use_frames and "frames" in video:
            prepared["frames"] = l2_normalize(video["frames"]).transpose(0, 1).contiguous()
            if "frame_mask" in video:
                prepared["frame_mask"] = video["frame_mask"]
        return prepared

    def score(self, text: Rows, video: Rows) -> Tensor:
        frames, mask = video.get("frames"), video.get("frame_mask")
        if torch.is_grad_enabled():
            return _with_gradient(text["text"], video["video"], frames, mask, self.top_frames)
        return similarity_of_unit_vectors(
            text["text"], video["video"], frames, mask, top_frames=self.top_frames
        )

    def term(self, name: str, text: Rows, video: Rows, *, scale: float | Tensor) -> Term:
        """VTM: [N, N]. FTM: [F, N, N], the texts with the frames of all videos at each position."""
        with no_autocast_on(text):
            unit = scale * l2_normalize(text["text"])
            if name == "VTM":
                return Term(unit @ l2_normalize(video["video"]).T)
            frames = l2_normalize(video["frames"]).transpose(0, 1)
            mask = video.get("frame_mask")
            return Term(unit @ frames.transpose(1, 2), None if mask is None else mask.T)

    def term_keys(self, name: str) -> frozenset[str]:
        return frozenset(("text", "video") if name == "VTM" else ("text", "frames", "frame_mask"))


def hmmc_head(*, top_frames: int = 3, use_frames: bool = True) -> HmmcHead:
    """The head by itself; it has no weights, so that it needs no width."""
    return HmmcHead(HeadOptions(use_frame_fea=use_frames, top_frames=top_frames), 0)


@torch.no_grad()
@without_autocast
def hmmc_similarity(
    text: Tensor,
    video: Tensor,
    frames: Tensor | None = None,
    frame_mask: Tensor | None = None,
    *,
    top_frames: int,
    logit_scale: float,
) -> Tensor:
    """Similarity [N, V] of a block of texts [N, D] and videos [V, D].

    s * cos(text, video), plus, with `frames` [V, F, D], the mean over the `top_frames` largest
    s * cos(text, frame). A video with fewer real frames takes the mean over all of them.
    """
    return similarity_of_unit_vectors(
        logit_scale * l2_normalize(text),
        l2_normalize(video),
        None if frames is None else l2_normalize(frames).transpose(0, 1),
        frame_mask,
        top_frames=top_frames,
    )


@torch.no_grad()
@without_autocast
def similarity_of_unit_vectors(
    text: Tensor,
    video: Tensor,
    frames: Tensor | None = None,
    frame_mask: Tensor | None = None,
    *,
    top_frames: int,
) -> Tensor:
    """`hmmc_similarity` of vectors that are normalised already; the texts are also multiplied by the scale.

    `text` [N, D], `video` [V, D], `frames` [F, V, D] (frames first), `frame_mask` [V, F]. Memory is
    `top_frames` + 3 matrices [N, V], never N x V x F numbers: the best scores so far are kept sorted, and
    each further frame is inserted by maximum and minimum. This is exact and, on a CPU, much faster than
    `topk`.
    """
    similarity = text @ video.T
    if frames is None:
        return similarity
    best = _best_frame_scores(text, frames, frame_mask, count=min(top_frames, len(frames)))
    if frame_mask is None:
        return similarity.add_(_sum(best).div_(len(best)))
    averaged = frame_mask.sum(dim=1).clamp(max=len(best))  # [V]: how many scores a video's mean is over
    total = _sum([scores.masked_fill_(averaged <= place, 0.0) for place, scores in enumerate(best)])
    return similarity.add_(total.div_(averaged.clamp(min=1)))


def _with_gradient(
    text: Tensor, video: Tensor, frames: Tensor | None, mask: Tensor | None, top_frames: int
) -> Tensor:
    """The same, with gradient; takes N x V x F numbers."""
    similarity = text @ video.T
    if frames is None:
        return similarity
    scores = torch.stack([text @ frame.T for frame in frames])  # [F, N, V]
    if mask is not None:
        scores = scores.masked_fill(~mask.T.unsqueeze(1), lowest(scores))
    best = scores.topk(min(top_frames, len(frames)), dim=0).values
    if mask is None:
        return similarity + best.mean(dim=0)
    averaged = mask.sum(dim=1).clamp(max=len(best))  # [V]
    places = torch.arange(len(best), device=best.device)[:, None, None]
    return similarity + best.masked_fill(averaged <= places, 0.0).sum(dim=0) / averaged.clamp(min=1)


def _best_frame_scores(
    text: Tensor, frames: Tensor, frame_mask: Tensor | None, *, count: int
) -> list[Tensor]:
    """The `count` largest scores of every text with the frames of every video, largest first, each [N, V]."""
    best: list[Tensor] = []
    spare = text.new_empty(len(text), frames.shape[1])
    for position, frame in enumerate(frames):
        scores = text @ frame.T
        if frame_mask is not None:
            scores.masked_fill_(~frame_mask[:, position], lowest(scores))
        for place, held in enumerate(best):
            best[place] = torch.maximum(held, scores, out=spare)
            torch.minimum(held, scores, out=scores)
            spare = held
        if len(best) < count:
            best.append(scores)
    return best


def _sum(matrices: list[Tensor]) -> Tensor:
    """The sum of `matrices`; it overwrites the first one."""
    total = matrices[0]
    for matrix in matrices[1:]:
        total += matrix
    return total
