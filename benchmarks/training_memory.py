"""Peak memory of a training step, with and without --grad_checkpointing and --grad_cache.

    python benchmarks/training_memory.py              ViT-B/32, 16 clips of 4 frames, fine-tuning
    python benchmarks/training_memory.py --pretrain   pre-training, with key encoders and masked words

Every setting runs in a process of its own, with random weights and random frames. A first step of two clips
loads libraries and allocates gradients and optimiser state; then the peak is reset and one step is measured.
Memory is resident memory on a CPU (Linux only), and memory of tensors on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.distributed.device import default_device
from engine.training.grad_cache import cached_backward
from engine.training.optimizer import build_optimizer
from modules.backbones.clip_towers import build_clip, clip_embed_dim, clip_image_size
from modules.backbones.text_encoder import ClipTextEncoder
from modules.dual_encoder import DualEncoder
from modules.grad_checkpointing import checkpoint_activations
from modules.pretrain_model import PretrainModel
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder

WORDS, MASKED = 32, 5
MIB = 2**20


def make_model(args: argparse.Namespace) -> tuple[DualEncoder, int]:
    """A model with random weights, and the side of its images in pixels."""
    clip: Any = build_clip(args.clip_model)
    width = clip_embed_dim(clip)
    visual = VideoEncoder(clip.visual, embed_dim=width, use_temp=True)
    size, text = clip_image_size(clip), ClipTextEncoder(clip)
    if args.pretrain:
        return PretrainModel(visual, text, max_frames=args.frames, use_frame_fea=True), size
    return RetrievalModel(visual, text, use_frame_fea=True), size


def make_batch(clips: int, args: argparse.Namespace, size: int, device: torch.device) -> dict[str, Tensor]:
    ids = torch.randint(1, 40_000, (clips, WORDS))
    ids[:, -1] = 49_407
    labels = torch.full_like(ids, -100)
    labels[:, 1 : 1 + MASKED] = ids[:, 1 : 1 + MASKED]
    batch = {
        "frames": torch.randint(0, 256, (clips, args.frames, 3, size, size), dtype=torch.uint8),
        "frame_mask": torch.ones(clips, args.frames, dtype=torch.bool),
        "text_ids": ids,
        "text_mask": torch.ones_like(ids),
        "text_mlm_ids": ids,
        "text_mlm_labels": labels,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Bytes before the step and at its peak, and seconds, of the setting in `args`."""
    torch.manual_seed(0)
    device = default_device()
    model, size = make_model(args)
    model.to(device).train()
    if args.grad_checkpointing:
        checkpoint_activations(model)
    optimizer = build_optimizer(
        model, lr=1e-4, text_lr=1e-5, coef_lr=1.0, weight_decay=0.2, warmup=0.1, total_steps=100
    )

    def step(batch: dict[str, Tensor]) -> None:
        if args.grad_cache:
            cached_backward(
                model, batch, chunk=args.grad_cache, scale=torch.clone, cast=contextlib.nullcontext
            )
        else:
            model(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    # Two clips, because BatchNorm needs more than one row.
    step(make_batch(2, args, size, device))
    batch = make_batch(args.clips, args, size, device)
    before = _restart_peak(device)
    started = time.perf_counter()
    step(batch)
    peak = _peak(device)
    return {"before": before, "peak": peak, "seconds": time.perf_counter() - started}


def _restart_peak(device: torch.device) -> int:
    """Reset the peak; returns the bytes in use now."""
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return _status("VmRSS")
    module = torch.get_device_module(device)
    module.reset_peak_memory_stats(device)
    return int(module.memory_allocated(device))


def _peak(device: torch.device) -> int:
    if device.type == "cpu":
        return _status("VmHWM")
    return int(torch.get_device_module(device).max_memory_allocated(device))


def _status(name: str) -> int:
    """Bytes of an entry of this process's status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pretrain", action="store_true", help="instead of fine-tuning")
    parser.add_argument("--clip_model", default="ViT-B-32-quickgelu")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--grad_checkpointing", action="store_true", help="of one setting, with --one")
    parser.add_argument("--grad_cache", type=int, default=0, help="of one setting, with --one")
    parser.add_argument("--one", action="store_true", help="one setting, in this process, as JSON")
    args = parser.parse_args()
    if args.one:
        sys.stdout.write(json.dumps(measure(args)) + "\n")
        return
    print("| setting | before the step, MiB | the step's own peak, MiB | seconds |")
    print("| --- | ---: | ---: | ---: |")
    cached = ["--grad_cache", str(max(1, args.clips // 4))]
    for setting in ([], ["--grad_checkpointing"], cached, [*cached, "--grad_checkpointing"]):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", *setting]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        measured = json.loads(done.stdout)
        before, added = measured["before"] / MIB, (measured["peak"] - measured["before"]) / MIB
        shown = " ".join(setting) or "plain"
        print(f"| {shown} | {before:,.0f} | {added:,.0f} | {measured['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
