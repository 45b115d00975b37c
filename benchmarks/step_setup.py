"""What the benchmarks of a training step share: models with random weights, random batches, clocks.

B clips of a batch, F frames, W words, S pixels a side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.distributed.device import to_device
from engine.distributed.precision import autocast, settle_precision
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from engine.logs.run_log import RunLog
from engine.training.optimizer import BertAdam, build_optimizer
from engine.training.trainer import Trainer
from modules.backbones.clip_towers import build_clip, clip_embed_dim, clip_image_size
from modules.backbones.text_encoder import ClipTextEncoder
from modules.dual_encoder import DualEncoder
from modules.grad_checkpointing import checkpoint_activations
from modules.pretrain_model import PretrainModel
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder

WORDS, REAL_WORDS, MASKED, QUEUE = 32, 21, 3, 1024
COUNTED_CLIPS = 4  # operations are counted with so many and multiplied: they grow with the clips
RATES = {"lr": 1e-4, "text_lr": 1e-7, "coef_lr": 1e-3, "weight_decay": 0.2, "warmup": 0.1}  # as published
HOST_BATCHES = 3  # different ones, used in turn
DISTINCT = 8  # clips of a batch that differ: drawing them all would take seconds


@dataclass(frozen=True)
class Work:
    """What is trained: `model` a CLIP by name, in fine-tuning or pre-training, `clips` clips a step."""

    model: str = "ViT-B-32-quickgelu"
    pretrain: bool = False
    clips: int = 128
    frames: int = 12

    def __str__(self) -> str:
        return f"{self.model}, {'pre-training' if self.pretrain else 'fine-tuning'}, {self.clips} clips"


def make_model(work: Work, device: torch.device) -> tuple[DualEncoder, int]:
    """A model with random weights, and S."""
    torch.manual_seed(0)
    clip: Any = build_clip(work.model)
    width = clip_embed_dim(clip)
    visual = VideoEncoder(clip.visual, embed_dim=width, use_temp=True)
    text = ClipTextEncoder(clip)
    model: DualEncoder
    if work.pretrain:
        model = PretrainModel(
            visual, text, max_frames=work.frames, use_frame_fea=True, queue_size=max(QUEUE, work.clips)
        )
    else:
        model = RetrievalModel(visual, text, use_frame_fea=True)
    return model.to(device).train(), clip_image_size(clip)


def make_batch(
    work: Work, size: int, *, clips: int | None = None, vocab: int = 49_408, context: int = 77
) -> dict[str, Tensor]:
    """A batch as a loader yields it: uint8 frames [B, F, 3, S, S] on the host, in pinned memory for a GPU."""
    clips = clips or work.clips
    some = torch.randint(0, 256, (min(clips, DISTINCT), work.frames, 3, size, size), dtype=torch.uint8)
    ids = torch.randint(1, vocab - 2, (clips, min(WORDS, context)))
    real = min(REAL_WORDS, context)
    ids[:, real - 1] = vocab - 1  # the end token has the largest id
    ids[:, real:] = 0
    mask = torch.zeros_like(ids)
    mask[:, :real] = 1
    batch = {
        "frames": some.repeat(-(-clips // len(some)), 1, 1, 1, 1)[:clips],
        "frame_mask": torch.ones(clips, work.frames, dtype=torch.bool),
        "text_ids": ids,
        "text_mask": mask,
        "index": torch.arange(clips),
        "video": torch.arange(clips),
        "replaced": torch.zeros(clips, dtype=torch.long),
    }
    if work.pretrain:
        labels = torch.full_like(ids, -100)
        labels[:, 1 : 1 + MASKED] = ids[:, 1 : 1 + MASKED]
        batch |= {"text_mlm_ids": ids.clone(), "text_mlm_labels": labels}
    pinned = torch.cuda.is_available()
    return {name: tensor.pin_memory() if pinned else tensor for name, tensor in batch.items()}


def sizes_of(model: DualEncoder) -> dict[str, int]:
    """Words that the text encoder knows, and its positions."""
    text: Any = model.text_encoder
    return {"vocab": text.vocab_size, "context": text.context_length}


class Batches:
    """A loader of `steps` random batches; they are made once, before the clock runs."""

    def __init__(self, work: Work, model: DualEncoder, size: int, *, steps: int) -> None:
        self.steps = steps
        self.batches = [make_batch(work, size, **sizes_of(model)) for _ in range(min(HOST_BATCHES, steps))]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.steps):
            yield self.batches[step % len(self.batches)]


@dataclass(frozen=True)
class Setup:
    """A trainer of the program, ready for its first step."""

    model: DualEncoder
    optimizer: BertAdam
    trainer: Trainer
    loader: Batches
    precision: str  # what `auto` chose
    flop: float  # operations of a step, see `count_flop`

    def run(self, steps: int) -> float:
        """Train `steps` steps, and return the seconds until the device has done them."""
        self.loader.steps = steps
        started = now(self.trainer.world.device)
        self.trainer.train_epoch(0)
        return now(self.trainer.world.device) - started


def make_setup(
    work: Work,
    device: torch.device,
    *,
    precision: str,
    compiled: bool = False,
    grad_checkpointing: bool = False,
    grad_cache: int = 0,
) -> Setup:
    """Model, optimiser and trainer as a run builds them, with random weights."""
    world = World(0, 1, device)
    settled, _ = settle_precision(precision, world)
    model, size = make_model(work, device)
    flop = count_flop(model, work, size, device, settled)
    if grad_checkpointing:
        checkpoint_activations(model)
    called = wrap(model, world, compiled=compiled, cached=grad_cache > 0, precision=settled)
    optimizer = build_optimizer(model, **RATES, total_steps=3515)
    loader = Batches(work, model, size, steps=HOST_BATCHES)
    loader_of_trainer: Any = loader
    trainer = Trainer(
        called,
        optimizer,
        loader_of_trainer,
        world=world,
        log=RunLog(Path(), active=False),
        precision=settled,
        grad_cache=grad_cache,
        n_display=10**9,
    )
    trainer.steps_per_epoch = 10**9  # no step is the last one, which reports and so waits for the device
    return Setup(model, optimizer, trainer, loader, settled, flop)


def now(device: torch.device) -> float:
    """Seconds; all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def count_flop(model: DualEncoder, work: Work, size: int, device: torch.device, precision: str) -> float:
    """Floating-point operations of forward and backward of a step, by torch's counter.

    `model` is neither compiled nor does it recompute activations yet.
    """
    clips = min(COUNTED_CLIPS, work.clips)
    batch = to_device(make_batch(work, size, clips=clips, **sizes_of(model)), device)
    with FlopCounterMode(display=False) as counter:
        with autocast(precision, device):
            loss = model(batch)["loss"]
        loss.backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() * work.clips / clips


def matrix_rate(device: torch.device, dtype: torch.dtype, *, side: int = 0, seconds: float = 0.5) -> float:
    """TFLOP/s of products of two square matrices: what the step's rate is compared with."""
    side = side or (8192 if device.type == "cuda" else 512)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device, seconds=seconds) / 1e12


def seconds_of(work: Callable[[], Any], device: torch.device, *, seconds: float = 0.5) -> float:
    """Seconds of one call, from as many calls as take about `seconds`, after a warm-up."""
    for _ in range(3):
        work()
    started = now(device)
    work()
    count = max(1, round(seconds / max(1e-6, now(device) - started)))
    started = now(device)
    for _ in range(count):
        work()
    return (now(device) - started) / count


def restart_peak(device: torch.device) -> None:
    """Forget the peak of memory on a GPU so far."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """GiB of tensors on a GPU at most since `restart_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


class PartClock:
    """Milliseconds a step of the parts of a training step, by hooks on modules and optimiser.

    On a GPU these are events on its stream, so nothing waits while the step runs. A part that is computed
    several times in a step, such as the text encoder in pre-training, is summed.
    """

    def __init__(self, setup: Setup) -> None:
        self.device = setup.trainer.world.device
        self.marks: list[tuple[str, Any]] = []
        self.handles: list[Any] = []
        encoders = {"image": "visual_encoder", "text": "text_encoder"}
        for part, name in encoders.items():
            for which, suffix in ((part, ""), (f"{part}, keys", "_k")):
                module = getattr(setup.model, name + suffix, None)
                if isinstance(module, nn.Module):
                    self._around(module, which)
        self._around(setup.trainer.model, "forward")
        for register, mark in (
            (setup.optimizer.register_step_pre_hook, "optimiser <"),
            (setup.optimizer.register_step_post_hook, "optimiser >"),
        ):
            self.handles.append(register(lambda *_, mark=mark: self._mark(mark)))

    def _around(self, module: nn.Module, part: str) -> None:
        self.handles.append(module.register_forward_pre_hook(lambda *_: self._mark(f"{part} <")))
        self.handles.append(module.register_forward_hook(lambda *_: self._mark(f"{part} >")))

    def _mark(self, name: str) -> None:
        if self.device.type != "cuda":
            self.marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((name, event))

    def parts(self, steps: int) -> dict[str, float]:
        """`ms_<part>` a step of the `steps` steps since the start, and an end of all measuring."""
        for handle in self.handles:
            handle.remove()
        now(self.device)
        totals: dict[str, float] = {}
        begun: dict[str, Any] = {}
        for name, moment in self.marks:
            part, kind = name.rsplit(" ", 1)
            if kind == "<":
                begun[part] = moment
            else:
                totals[part] = totals.get(part, 0.0) + self._apart(begun[part], moment)
            if name == "optimiser <" and "forward" in totals:
                backward = self._apart(begun.pop("after forward"), moment)
                totals["backward and clipping"] = totals.get("backward and clipping", 0.0) + backward
            if name == "forward >":
                begun["after forward"] = moment
        encoders = sum(value for part, value in totals.items() if part.startswith(("image", "text")))
        totals["heads and losses"] = totals.pop("forward", encoders) - encoders
        return {f"ms_{part}": value / steps for part, value in totals.items()}

    def _apart(self, first: Any, last: Any) -> float:
        """Milliseconds between two moments."""
        return first.elapsed_time(last) if self.device.type == "cuda" else 1e3 * (last - first)
