"""Speed of a fine-tuning step the published way, beside the program's own step in the same run.

    python benchmarks/baseline_step.py [--clips 128] [--precision auto] [--json FILE]
    python benchmarks/baseline_step.py --clips 4 --frames 2 --steps 1        a CPU

The published way is written plainly here, as it is described: weights of products in float16 without master
copies (float32 on a CPU), LayerNorm in float32, torch's nn.MultiheadAttention, frames that are normalised on
the CPU and copied as floats, an optimiser that updates one tensor after another, and a loss that the CPU
reads in every step. The published code itself was measured once: results/h100.md.

B clips, F frames, N images, L tokens, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_json import Report, add_json_flag
from benchmarks.step_setup import RATES, Work, make_batch, make_setup, now, peak_gib, restart_peak
from common.arguments import ArgumentParser
from common.errors import run_program
from engine.distributed.device import default_device
from modules.backbones.clip_towers import build_clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
POSITIONS, TEMPORAL_LAYERS, HEAD_WIDTH, SCALE = 48, 4, 64, 100.0
VTM, FTM = 0.85, 0.15
B1, B2, EPS = 0.9, 0.98, 1e-6


class LayerNorm(nn.LayerNorm):
    """In float32, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(
            x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return normed.to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """Pre-norm attention and MLP on [L, N, width]."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, max(1, width // HEAD_WIDTH))
        self.ln_1, self.ln_2, self.mlp = LayerNorm(width, eps=eps), LayerNorm(width, eps=eps), Mlp(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    def __init__(self, width: int, layers: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, eps) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.permute(1, 0, 2)
        for block in self.resblocks:
            x = block(x, mask)
        return x.permute(1, 0, 2)


class PlainModel(nn.Module):
    """Features as METHOD describes them, of the sizes of the CLIP with this state; names are CLIP's."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        width, _, patch, _ = state["visual.conv1.weight"].shape
        joint, words = state["text_projection"].shape[1], state["token_embedding.weight"].shape
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.visual.ln_pre, self.visual.ln_post = LayerNorm(width), LayerNorm(width)
        self.visual.transformer = Blocks(width, _layers(state, "visual."))
        self.transformer = Blocks(words[1], _layers(state, ""))
        self.token_embedding, self.ln_final = nn.Embedding(*words), LayerNorm(words[1])
        for name in ("visual.class_embedding", "visual.positional_embedding", "visual.proj"):
            setattr(self.visual, name.partition(".")[2], nn.Parameter(state[name].clone()))
        for name in ("positional_embedding", "text_projection"):
            setattr(self, name, nn.Parameter(state[name].clone()))
        ours = self.state_dict()
        self.load_state_dict({name: value for name, value in state.items() if name in ours})
        self.temporal_transformer = Blocks(joint, TEMPORAL_LAYERS, eps=1e-12)
        self.frame_position_embeddings = nn.Embedding(POSITIONS, joint)

    def half_products(self) -> PlainModel:
        """float16 weights where there are products, as in CLIP; embeddings and norms stay float32."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
                module.half()
        for owner, name in ((self.visual, "proj"), (self, "text_projection")):
            parameter: Any = getattr(owner, name)
            parameter.data = parameter.data.half()
        return self

    def encode_frames(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, D]."""
        visual: Any = self.visual
        x = visual.conv1(images.to(visual.conv1.weight.dtype)).flatten(2).permute(0, 2, 1)
        first = visual.class_embedding.to(x.dtype) + x.new_zeros(len(x), 1, x.shape[2])
        x = visual.ln_pre(torch.cat([first, x], dim=1) + visual.positional_embedding.to(x.dtype))
        return visual.ln_post(visual.transformer(x)[:, 0]) @ visual.proj

    def encode_video(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F, 3, S, S] -> [B, D] and [B, F, D]."""
        features = self.encode_frames(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        positions = self.frame_position_embeddings.weight[: frames.shape[1]].to(features.dtype)
        attended = self.temporal_transformer(features + positions) + features
        return (attended / attended.norm(dim=-1, keepdim=True)).mean(dim=1), features

    def encode_text(self, ids: Tensor) -> Tensor:
        """[B, W] -> [B, D]; all positions of the context are computed, as in CLIP."""
        ids = F.pad(ids, (0, len(self.positional_embedding) - ids.shape[1]))
        dtype = self.text_projection.dtype
        x = (self.token_embedding(ids) + self.positional_embedding).to(dtype)
        causal = torch.full((ids.shape[1],) * 2, -torch.inf, device=ids.device, dtype=dtype).triu(1)
        x = self.ln_final(self.transformer(x, causal))
        return x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.text_projection

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        video, features = self.encode_video(frames)
        text = _unit(self.encode_text(ids))
        total = VTM * _both_ways(SCALE * text @ _unit(video).T)
        for position in range(features.shape[1]):
            similarity = SCALE * text @ _unit(features[:, position]).T
            total = total + FTM / features.shape[1] * _both_ways(similarity)
        return total


class PlainBertAdam:
    """One tensor after another, in the format of the weights."""

    def __init__(self, model: nn.Module, total_steps: int) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.params]
        self.total_steps, self.done = total_steps, 0

    @torch.no_grad()
    def step(self) -> None:
        progress = self.done / self.total_steps
        warm = progress < RATES["warmup"]
        factor = progress / RATES["warmup"] if warm else 0.5 * (1 + math.cos(math.pi * progress))
        for p, (first, second) in zip(self.params, self.moments, strict=True):
            if p.grad is None:
                continue
            torch.nn.utils.clip_grad_norm_(p, 1.0)
            first.mul_(B1).add_(p.grad, alpha=1 - B1)
            second.mul_(B2).addcmul_(p.grad, p.grad, value=1 - B2)
            update = first / (second.sqrt() + EPS) + RATES["weight_decay"] * p
            p.add_(update, alpha=-RATES["text_lr"] * factor)
        self.done += 1


def _layers(state: dict[str, Tensor], prefix: str) -> int:
    names = (name for name in state if name.startswith(f"{prefix}transformer.resblocks."))
    return 1 + max(int(name.removeprefix(prefix).split(".")[2]) for name in names)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _both_ways(similarity: Tensor) -> Tensor:
    right = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity.float(), right) + F.cross_entropy(similarity.float().T, right)


def normalised(frames: Tensor) -> Tensor:
    """uint8 -> float32 [B, F, 3, S, S] on the CPU, as the published loader yields them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (frames / 255.0 - mean) / std


def published_step(work: Work, device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of `args.steps` steps the published way."""
    state = build_clip(work.model).state_dict()
    torch.manual_seed(0)
    model = PlainModel(state).to(device)
    if device.type == "cuda":
        model.half_products()
    optimizer = PlainBertAdam(model, total_steps=3515)
    size = (len(state["visual.positional_embedding"]) - 1) ** 0.5 * state["visual.conv1.weight"].shape[2]
    known = {"vocab": len(state["token_embedding.weight"]), "context": len(state["positional_embedding"])}
    batches = [make_batch(work, round(size), **known) for _ in range(2)]
    floats = [normalised(batch["frames"]) for batch in batches]
    if device.type == "cuda":
        floats = [frames.pin_memory() for frames in floats]

    def losses(steps: int) -> Iterator[float]:
        for step in range(steps):
            frames = floats[step % 2].to(device, non_blocking=True)
            loss = model(frames, batches[step % 2]["text_ids"].to(device, non_blocking=True))
            loss.backward()
            optimizer.step()
            for p in optimizer.params:
                p.grad = None
            yield float(loss.detach())

    list(losses(args.warmup + 1))
    restart_peak(device)
    started = now(device)
    seen = list(losses(args.steps))
    seconds = (now(device) - started) / args.steps
    return {
        "clips_per_second": work.clips / seconds,
        "ms_per_step": 1e3 * seconds,
        "memory_gib": peak_gib(device),
        "loss": seen[-1],
    }


def our_step(work: Work, device: torch.device, args: argparse.Namespace, precision: str) -> dict[str, Any]:
    setup = make_setup(work, device, precision=precision, compiled=args.compile == "on")
    setup.run(1)
    setup.run(max(1, args.warmup))
    restart_peak(device)
    seconds = setup.run(args.steps) / args.steps
    return {
        "precision": setup.precision,
        "clips_per_second": work.clips / seconds,
        "ms_per_step": 1e3 * seconds,
        "memory_gib": peak_gib(device),
    }


def main() -> int:
    return run_program("baseline_step.py", _main)


def _main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip_model", default="ViT-B-32-quickgelu")
    parser.add_argument("--precision", nargs="+", default=["auto"], help="of our steps")
    parser.add_argument("--compile", choices=("off", "on"), default="off", help="in our steps")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    add_json_flag(parser)
    args = parser.parse_args()
    columns = {"clips_per_second": "clips/s", "ms_per_step": "ms a step", "ratio": "of the published way"}
    report = Report("baseline_step", settings=vars(args), columns={**columns, "memory_gib": "memory, GiB"})
    work, device = Work(args.clip_model, False, args.clips, args.frames), default_device()
    published = published_step(work, device, args)
    report.add("published way", **published, ratio=1.0)
    for precision in args.precision:
        gc.collect()
        ours = our_step(work, device, args, precision)
        ratio = ours["clips_per_second"] / published["clips_per_second"]
        report.add(f"ours, {precision}", **ours, ratio=ratio)
        report.close(args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
