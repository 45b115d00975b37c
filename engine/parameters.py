"""`--do_params`: parameters and floating-point operations of each part, for one clip and one caption.

F frames, W words. A multiply-add counts as two operations. Only matrix products, convolutions and attention
are counted, as in torch's counter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.atomic_files import write_json
from engine.checkpoint.weights import group_of
from modules.backbones.bilingual import BilingualTextEncoder
from modules.dual_encoder import DualEncoder
from modules.pretrain_model import PretrainModel


@dataclass(frozen=True)
class Part:
    """One part of a model: all parameters, trainable ones, and operations of the forward pass."""

    name: str
    parameters: int
    trainable: int
    flops: int | None


def parts_of(model: DualEncoder, *, frames: int, words: int) -> list[Part]:
    """The parts of `model` (on the CPU), with operations for one clip of F frames and one text of W words.

    A last part of a pre-training model counts the operations that a training step needs in addition to the
    encoders: momentum encoders and heads together.
    """
    flops = _encoder_flops(model, frames=frames, words=words)
    parameters: Counter[str] = Counter()
    trainable: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[group_of(name)] += parameter.numel()
        trainable[group_of(name)] += parameter.numel() if parameter.requires_grad else 0
    parts = [Part(name, parameters[name], trainable[name], flops.get(name)) for name in parameters]
    if isinstance(model, PretrainModel):
        step = _count(lambda: model.train()(_training_batch(model, frames=frames, words=words)))
        parts.append(Part("training beyond the encoders, forward", 0, 0, step - sum(flops.values())))
    return parts


def parameter_table(parts: list[Part], *, frames: int, words: int) -> list[str]:
    """Lines for the log: one for each part, then the total."""
    lines = [f"for one clip of {frames} frames and one text of {words} tokens (1 multiply-add = 2 FLOPs):"]
    for part in [*parts, _total(parts)]:
        flops = "" if part.flops is None else f", {part.flops / 1e9:,.3f} GFLOPs"
        trainable = "" if part.trainable == part.parameters else f" ({part.trainable:,} trainable)"
        count = f" {part.parameters:,} parameters{trainable}" if part.parameters else ""
        lines.append(f"{part.name}:{count}{flops}".replace(":,", ":"))
    return lines


def save_parameters(parts: list[Part], path: Path, *, frames: int, words: int) -> None:
    """Write the table as JSON, atomically."""
    parts = [*parts, _total(parts)]
    write_json(path, {"frames": frames, "words": words, "parts": [asdict(part) for part in parts]})


def _total(parts: list[Part]) -> Part:
    return Part(
        "total",
        sum(part.parameters for part in parts),
        sum(part.trainable for part in parts),
        sum(part.flops or 0 for part in parts),
    )


def _encoder_flops(model: DualEncoder, *, frames: int, words: int) -> dict[str, int]:
    size = int(model.visual_encoder.image_size)  # type: ignore[arg-type]
    clip = torch.zeros(1, frames, 3, size, size)
    # A bilingual model encodes one text of each language; half of that is one text.
    languages = torch.arange(2 if isinstance(model.text_encoder, BilingualTextEncoder) else 1)
    text = torch.ones(len(languages), words, dtype=torch.int64)
    model.eval()
    image = _count(lambda: model.visual_encoder.visual(clip[0]))  # type: ignore[operator]
    flops = {
        "image tower": image,
        "text encoder": _count(lambda: model.encode_text(text, torch.ones_like(text), languages))
        // len(languages),
    }
    temporal = _count(lambda: model.encode_video(clip)) - image
    return flops | ({"temporal transformer": temporal} if temporal else {})


def _training_batch(model: PretrainModel, *, frames: int, words: int) -> dict[str, torch.Tensor]:
    size = int(model.visual_encoder.image_size)  # type: ignore[arg-type]
    ids = torch.ones(1, words, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    labels[0, 1 : 1 + max(1, round(0.15 * words))] = 1  # the average number of masked words
    return {
        "frames": torch.zeros(1, frames, 3, size, size),
        "text_ids": ids,
        "text_mask": torch.ones_like(ids),
        "text_mlm_ids": ids,
        "text_mlm_labels": labels,
        "language": torch.zeros(1, dtype=torch.int64),
    }


def _count(forward: Callable[[], object]) -> int:
    # The counter does not see the fused attention kernel of CPUs, nor the fast path of layers without
    # gradients. Both are switched off here.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops())
